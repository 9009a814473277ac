package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/varvelog/varve/internal/meta"
)

// Pauses between repeats, with jitter; the caller's ctx bounds their number.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// commit applies ops as one commit and returns its id. The error is
// meta.ErrConflict (not applied, and never will be), ErrTooLarge, or, when ctx
// ended first, ErrUnknown or, where nothing was applied, meta.ErrBusy.
//
// While an outcome is unknown the commit is repeated under the same id. Only
// one of the attempts can be applied, since each makes the others' conditions
// false: so the first that is answered settles them all, unless it is refused.
// Then settle looks whose write it met.
func (c *Catalog) commit(ctx context.Context, ops ...meta.Op) (id string, err error) {
	id = meta.NewCommitID()
	unknown := false
	for delay := firstPause; ; delay = min(2*delay, maxPause) {
		err := c.store.Commit(ctx, id, ops...)
		switch {
		case err == nil:
			c.tell(ops)
			return id, nil
		case errors.Is(err, meta.ErrInvalid):
			return "", fmt.Errorf("%w: %w", ErrTooLarge, err)
		case errors.Is(err, meta.ErrConflict) && unknown:
			c.tell(ops)
			return id, c.settle(ctx, id, ops)
		case errors.Is(err, meta.ErrConflict):
			return "", err
		case !errors.Is(err, meta.ErrBusy):
			unknown = true
		}
		if perr := pause(ctx, delay); perr != nil {
			if unknown {
				return "", fmt.Errorf("%w: %w", ErrUnknown, err)
			}
			return "", fmt.Errorf("%w (%w)", err, perr)
		}
	}
}

// settle decides a refusal that followed an unknown outcome: an earlier attempt
// was applied if an item carries its id, or if all of them are gone and it had
// only deletions. Where others have written all items since, it answers
// ErrConflict too: the caller then decides by what the items say now, and its
// write, applied or not, is no longer in force.
func (c *Catalog) settle(ctx context.Context, id string, ops []meta.Op) error {
	gone := true
	for _, op := range ops {
		if op.Kind == meta.OpCheck {
			continue
		}
		var item meta.Item
		err := persist(ctx, func() (err error) {
			item, err = c.get(ctx, op.Key.PK, op.Key.SK)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		if item.CommitID == id {
			return nil
		}
		gone = gone && item.Version == 0 && op.Kind == meta.OpDelete
	}
	if gone {
		return nil
	}
	return meta.ErrConflict
}

// written returns the item that an operation of an applied commit left, as far
// as conditions need it: without the attributes.
func written(op meta.Op, id string) meta.Item {
	return meta.Item{Key: op.Key, Version: op.Old.Version + 1, CommitID: id}
}

// bare returns an item without its attributes, to be kept for conditions.
func bare(item meta.Item) meta.Item {
	item.Attrs = nil
	return item
}

// fencedIf makes a conflict the caller's ErrFenced.
func fencedIf(err error) error {
	if errors.Is(err, meta.ErrConflict) {
		return ErrFenced
	}
	return err
}

// again calls fn until it loses no race. fn reads anew what it stands on.
func again(ctx context.Context, fn func() error) error {
	return repeat(ctx, fn, func(err error) bool { return errors.Is(err, meta.ErrConflict) })
}

// persist calls fn, which only reads, until it succeeds.
func persist(ctx context.Context, fn func() error) error {
	return repeat(ctx, fn, func(err error) bool { return err != nil })
}

func repeat(ctx context.Context, fn func() error, failed func(error) bool) error {
	for delay := firstPause; ; delay = min(2*delay, maxPause) {
		err := fn()
		if !failed(err) {
			return err
		}
		if perr := pause(ctx, delay); perr != nil {
			return fmt.Errorf("%w (%w)", err, perr)
		}
	}
}

// pause waits for d/2 to 3d/2.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
