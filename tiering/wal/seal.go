package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// Seal ends the WAL of target's session (its Seq is not used) on behalf of
// sealer, and returns the sequence number of a seal that ends it:
//
//	from ▼                at ▼
//	  │ 5 │ 6 │ 7 │ 8 │ seal │      (a LIST shows the first gap; where the session
//	                                 still wins it, the next number is tried)
//
// From is the first number that cannot have been trimmed. All objects from
// there up to at exist, and none at or behind at was or will be acknowledged,
// as long as nobody deletes anything. It repeats what fails until ctx ends.
// Several callers may race; each gets a seal that holds at that time, and they agree
// through the catalogue on the one that counts. Finding something under a key
// of the session that it did not put there is an error.
func Seal(ctx context.Context, store objstore.Store, target bundle.Origin, from int64, sealer bundle.Origin) (at int64, err error) {
	p := &putter{store: store, timeout: defaultPutTimeout, metrics: NewMetrics(nil), logger: slog.New(slog.DiscardHandler)}
	at, found, err := findEnd(ctx, store, target, from)
	for try := 0; err != nil; try++ {
		if errors.Is(err, bundle.ErrCorrupt) || !pause(ctx, try) {
			return -1, fmt.Errorf("seal WAL of broker %d, session %d: %w", target.Broker, target.Epoch, err)
		}
		at, found, err = findEnd(ctx, store, target, from)
	}
	for ; !found; at++ {
		target.Seq = at
		body, sum := bundle.SealBuffers(target, sealer)
		o := newObject(bundle.KindSeal, target, body, sum)
		switch out, err := p.settle(ctx, &o); out {
		case applied, sealed:
			return at, nil
		case taken:
		default:
			return -1, fmt.Errorf("seal WAL of broker %d, session %d: %w", target.Broker, target.Epoch, err)
		}
	}
	return at, nil
}

// findEnd lists a session's objects from a number on, up to the first gap or
// seal; found tells that it is a seal.
func findEnd(ctx context.Context, store objstore.Store, target bundle.Origin, from int64) (at int64, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*defaultPutTimeout)
	defer cancel()
	const page = 1000
	for at = from; ; {
		after := ""
		if target.Seq = at - 1; at > 0 {
			after = Key(target)
		}
		infos, err := store.List(ctx, Prefix(target.Broker, target.Epoch), after, page)
		if err != nil {
			return at, false, fmt.Errorf("list WAL: %w", err)
		}
		for _, info := range infos {
			if target.Seq = at; info.Key != Key(target) {
				return at, false, nil
			}
			if info.Size == bundle.SealSize {
				o, err := bundle.Read(ctx, bundle.At(store, info.Key), nil)
				if err != nil {
					return at, false, fmt.Errorf("read %s: %w", info.Key, err)
				}
				if o.Kind == bundle.KindSeal {
					return at, true, nil
				}
			}
			at++
		}
		if len(infos) < page {
			return at, false, nil
		}
	}
}
