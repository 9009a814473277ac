package retention

import (
	"context"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// deleteDue deletes the objects that have waited long enough, and forgets
// their notes. Deleting what is gone does no harm.
func (t *turn) deleteDue(ctx context.Context) error {
	for {
		var dead []catalog.DeadObjects
		err := bounded(ctx, func(ctx context.Context) (err error) {
			dead, err = t.o.Catalog.DeadObjects(ctx, time.Now(), deadBatch)
			return err
		})
		if err != nil {
			return err
		}
		var keys []string
		for _, d := range dead {
			keys = append(keys, d.Keys...)
		}
		if err := t.delete(ctx, keys); err != nil {
			return err
		}
		for _, d := range dead {
			if err := bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.ForgetDead(ctx, d) }); err != nil {
				return err
			}
		}
		if len(dead) < deadBatch {
			return nil
		}
		if err := t.keep(ctx); err != nil {
			return err
		}
	}
}

func (t *turn) delete(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	for _, key := range keys {
		t.o.Deleted(key)
	}
	err := bounded(ctx, func(ctx context.Context) error { return t.o.Store.Delete(ctx, keys...) })
	if err != nil {
		return fmt.Errorf("delete %d objects from %s on: %w", len(keys), keys[0], err)
	}
	t.stats.Objects += int64(len(keys))
	t.metrics.deleted.Add(float64(len(keys)))
	return nil
}
