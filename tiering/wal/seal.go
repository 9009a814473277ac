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
// sealer, and returns the sequence number of the seal that ends it:
//
//	from ▼                at ▼                      ▼ stop
//	  │ 5 │ 6 │ 7 │ 8 │ seal │ garbage │ … │ … │ seal │
//
// From is the first number that cannot have been trimmed. A LIST shows the
// first gap, and the seal goes there; where the session still wins it, the
// next gap is tried. A session in full swing would win for ever, so after two
// losses a second seal goes some way ahead of it: there, at the latest, it
// ends, whether the first gap was closed until then or not.
//
// All objects from there up to at exist, and none at or behind at was or will
// be acknowledged, as long as nobody deletes anything. What fails is repeated
// until ctx ends. Several callers may race; they find the same seal unless
// objects were deleted meanwhile, so the catalogue records the one that counts.
// Something under a key of the session that it did not put there is an error.
func Seal(ctx context.Context, store objstore.Store, target bundle.Origin, from int64, sealer bundle.Origin) (at int64, err error) {
	s := &sealing{target: target, sealer: sealer, put: putter{
		store: store, timeout: defaultPutTimeout, metrics: NewMetrics(nil), logger: slog.New(slog.DiscardHandler)}}
	at, err = s.run(ctx, from)
	if err != nil {
		return -1, fmt.Errorf("seal WAL of broker %d, session %d: %w", target.Broker, target.Epoch, err)
	}
	return at, nil
}

// stopAhead is how far ahead of a session that goes on writing the first stop
// is put: more than it has in flight.
const stopAhead = 16

type sealing struct {
	target, sealer bundle.Origin
	put            putter
}

func (s *sealing) run(ctx context.Context, from int64) (int64, error) {
	ahead, stopped := int64(stopAhead), false
	for lost := 1; ; lost++ {
		at, found, err := s.findEnd(ctx, from)
		if err != nil || found {
			return at, err
		}
		if won, err := s.sealAt(ctx, at); err != nil || won {
			return at, err
		}
		from = at + 1
		if lost >= 2 && !stopped {
			if stopped, err = s.sealAt(ctx, at+ahead); err != nil {
				return at, err
			}
			ahead *= 2
		}
	}
}

// sealAt puts a seal at a position, and returns whether one is there now: it
// is not if the session was faster.
func (s *sealing) sealAt(ctx context.Context, seq int64) (bool, error) {
	s.target.Seq = seq
	body, sum := bundle.SealBuffers(s.target, s.sealer)
	o := newObject(bundle.KindSeal, s.target, body, sum)
	switch out, err := s.put.settle(ctx, &o); out {
	case applied, sealed:
		return true, nil
	case taken:
		return false, nil
	default:
		return false, err
	}
}

// findEnd lists the session's objects from a number on, up to the first gap or
// seal; found tells that it is a seal. It goes on until it knows or ctx ends.
func (s *sealing) findEnd(ctx context.Context, from int64) (at int64, found bool, err error) {
	for try := 0; ; try++ {
		at, found, err = findEnd(ctx, s.put.store, s.target, from)
		if err == nil || errors.Is(err, bundle.ErrCorrupt) || !pause(ctx, try) {
			return at, found, err
		}
	}
}

// End returns where a session's WAL ends at this moment, looking from a number
// on that cannot have been trimmed: the first that has no object, or has a
// seal. All objects from there up to it were durable when End returned, though
// not all need to have been acknowledged yet.
func End(ctx context.Context, store objstore.Store, session bundle.Origin, from int64) (at int64, err error) {
	if at, _, err = findEnd(ctx, store, session, from); err != nil {
		return 0, fmt.Errorf("find the end of the WAL of broker %d, session %d: %w", session.Broker, session.Epoch, err)
	}
	return at, nil
}

func findEnd(ctx context.Context, store objstore.Store, target bundle.Origin, from int64) (at int64, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*defaultPutTimeout)
	defer cancel()
	const page = 16 * objstore.MaxList // most WALs, in a store that has such pages
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
		if len(infos) < objstore.MaxList {
			return at, false, nil
		}
	}
}
