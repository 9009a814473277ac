// Package catalog is the typed view of the metadata table: the cluster,
// topics, slots, sessions, segments, groups and their offsets.
//
// Every write is a conditional commit that states what it stands on. Where
// the outcome of one is unknown, it is repeated with the same id until a read
// shows it applied or its condition is false (law of three outcomes); only
// what stays open when ctx ends is returned as ErrUnknown.
//
//	cluster        info                      id, slot count, feature level
//	topics         <name>                    id, partitions, configs
//	changes        <number>                  the ordered feed of topic and config changes
//	tombstones     <topic id>                deleted topics whose segments are still to go
//	config         broker/<id>               dynamic broker settings ("" = cluster-wide)
//	session/<b>    <epoch>                   one life of a broker
//	sessions       <b>/<epoch>               index of them
//	slots          <slot>                    owner, epoch, spans, checkpoints
//	starts/<slot>  <topic id>/<partition>    log start offsets
//	log/<t>/<p>    seg/<base>                sealed segments
//	group/<id>     state, part/…, offsets/…  groups
//	groups/<slot>  <id>                      index of them
//	pids           next                      the next producer id
package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/varvelog/varve/internal/meta"
)

// Errors of the catalogue.
var (
	// ErrExists means that what should be created is there already.
	ErrExists = errors.New("catalog: exists")
	// ErrNotFound means that what is asked for is not there.
	ErrNotFound = errors.New("catalog: not found")
	// ErrFenced means that the session, slot or group is no longer the
	// caller's: somebody else has taken it.
	ErrFenced = errors.New("catalog: fenced")
	// ErrUnknown means that a write may or may not have been applied.
	ErrUnknown = errors.New("catalog: outcome unknown")
	// ErrTooLarge means that a value does not fit the store's limits.
	ErrTooLarge = errors.New("catalog: too large")
)

// format is the version of the items' attributes, attribute "v" of each.
const format = int64(1)

// Catalog is the view. All methods are safe for concurrent use; callers give
// each call a deadline.
type Catalog struct {
	store  meta.Store
	topics atomic.Pointer[Topics]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each new snapshot
}

// New returns a catalogue over a store. Refresh fills its snapshot of topics.
func New(store meta.Store) *Catalog {
	c := &Catalog{store: store, changed: make(chan struct{})}
	c.topics.Store(newTopics())
	return c
}

// retryDelay is the first pause between repeats; it grows with jitter.
const retryDelay = 5 * time.Millisecond

// commit applies ops as one commit: nil, meta.ErrConflict (certainly not
// applied), meta.ErrInvalid, or ErrUnknown when ctx ended first.
func (c *Catalog) commit(ctx context.Context, ops ...meta.Op) error {
	id, unknown := meta.NewCommitID(), false
	for delay := retryDelay; ; delay = min(2*delay, time.Second) {
		err := c.store.Commit(ctx, id, ops...)
		switch {
		case err == nil, errors.Is(err, meta.ErrInvalid):
			return err
		case errors.Is(err, meta.ErrConflict):
			if !unknown {
				return err
			}
			return c.settle(ctx, id, ops)
		case !errors.Is(err, meta.ErrBusy):
			unknown = true
		}
		if werr := pause(ctx, delay/2+rand.N(delay)); werr != nil {
			if unknown {
				return fmt.Errorf("%w: %w", ErrUnknown, err)
			}
			return fmt.Errorf("commit: %w", errors.Join(werr, err))
		}
	}
}

// settle decides a conflict that came after an unknown outcome: the earlier
// attempt was applied if an item carries its id, or if all that it wanted gone is gone.
func (c *Catalog) settle(ctx context.Context, id string, ops []meta.Op) error {
	gone := true
	for _, op := range ops {
		if op.Kind == meta.OpCheck {
			continue
		}
		item, err := c.store.Get(ctx, op.Key)
		switch {
		case errors.Is(err, meta.ErrNotFound):
			gone = gone && op.Kind == meta.OpDelete
		case err != nil:
			return fmt.Errorf("%w: settle: %w", ErrUnknown, err)
		case item.CommitID == id:
			return nil
		default:
			gone = false
		}
	}
	if gone {
		return nil
	}
	return meta.ErrConflict
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// get returns an item, or one with Version 0 where there is none.
func (c *Catalog) get(ctx context.Context, pk, sk string) (meta.Item, error) {
	k := meta.Key{PK: pk, SK: sk}
	item, err := c.store.Get(ctx, k)
	if errors.Is(err, meta.ErrNotFound) {
		return meta.Item{Key: k}, nil
	}
	return item, err
}

// all returns all items of a partition key with a prefix.
func (c *Catalog) all(ctx context.Context, pk, prefix string) ([]meta.Item, error) {
	var items []meta.Item
	for r := (meta.Range{Prefix: prefix}); ; {
		page, more, err := c.store.Query(ctx, pk, r)
		if err != nil {
			return nil, err
		}
		items = append(items, page...)
		if !more || len(page) == 0 {
			return items, nil
		}
		r.After = page[len(page)-1].SK
	}
}

// again repeats fn while it loses races, a bounded number of times.
func again(ctx context.Context, fn func() error) error {
	for delay := retryDelay; ; delay = min(2*delay, time.Second) {
		err := fn()
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		if werr := pause(ctx, rand.N(delay)); werr != nil {
			return errors.Join(err, werr)
		}
	}
}
