package slot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// Waits between the attempts of a step, and the time between two lines about them.
const (
	firstWait = 10 * time.Millisecond
	lastWait  = 3 * time.Second
	tellEvery = 5 * time.Second
)

// patience repeats the steps with which a session begins: whoever takes slots
// while the store or the catalogue stumbles should be late, not gone. They are
// reads, and changes of the catalogue: it settles by itself what became of a
// write, so a change that fails while there is time has failed by a read.
type patience struct {
	log  *slog.Logger
	told atomic.Int64 // when the last line was logged, Unix ns
}

// Persist has the same patience with what a broker does before its session
// begins: it repeats step until it succeeds, ctx ends, or it fails for good.
func Persist(ctx context.Context, log *slog.Logger, what string, step func() error) error {
	return (&patience{log: log}).persist(ctx, what, step)
}

// persist calls step until it succeeds, ctx ends, or it fails for good, and
// returns its last error, with what it was for.
func (p *patience) persist(ctx context.Context, what string, step func() error) error {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		err := step()
		if err == nil {
			return nil
		}
		if forGood(err) || ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		p.tell(what, err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// readEach reads what keys name, side by side, each with persist's patience.
func readEach[K, V any](ctx context.Context, p *patience, what string, keys []K, read func(context.Context, K) (V, error)) ([]V, error) {
	each := make([]V, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, key := range keys {
		g.Go(func() error {
			return p.persist(ctx, what, func() (err error) {
				each[i], err = read(ctx, key)
				return err
			})
		})
	}
	return each, g.Wait()
}

// tell logs once in a while.
func (p *patience) tell(what string, err error) {
	now, last := time.Now().UnixNano(), p.told.Load()
	if now-last >= int64(tellEvery) && p.told.CompareAndSwap(last, now) {
		p.log.Warn("starting late: trying again", "what", what, "err", err)
	}
}

// forGood tells the errors that the next attempt would have again.
func forGood(err error) bool {
	for _, e := range []error{
		wal.ErrHole, wal.ErrFenced, bundle.ErrCorrupt, recovery.ErrInconsistent, objstore.ErrNotFound, objstore.ErrInvalidKey,
		catalog.ErrNotFound, catalog.ErrFenced, catalog.ErrTooLarge, catalog.ErrSuperseded, catalog.ErrLevel, catalog.ErrRestoring, catalog.ErrForeign,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// patientStore is a store whose reads are repeated until the call's context ends:
// a recovery of thousands of objects does not begin anew for one of them.
type patientStore struct {
	objstore.Store
	steps *patience
}

// ReadAt implements objstore.Store.
func (s patientStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error) {
	var end error
	err = s.steps.persist(ctx, "read "+key, func() error {
		n, size, end = s.Store.ReadAt(ctx, key, p, off)
		if errors.Is(end, io.EOF) {
			return nil
		}
		return end
	})
	if err == nil {
		err = end
	}
	return n, size, err
}
