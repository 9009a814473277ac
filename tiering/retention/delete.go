package retention

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/objstore"
)

// doomed is an object that nothing refers to any more.
type doomed struct {
	key string
	at  time.Time // when it may go
}

// doom lets the objects of removed entries wait for their deletion.
func (j *Job) doom(segs []catalog.Segment, at time.Time) {
	for _, s := range segs {
		if s.Key != "" {
			j.doomed = append(j.doomed, doomed{s.Key, at})
		}
	}
	slices.SortStableFunc(j.doomed, func(a, b doomed) int { return a.at.Compare(b.at) })
	j.metrics.waiting.Set(float64(len(j.doomed)))
}

// untilDue returns the time until the next deletion, long where there is none.
func (j *Job) untilDue() time.Duration {
	if len(j.doomed) == 0 {
		return time.Hour
	}
	return max(0, time.Until(j.doomed[0].at))
}

// DeleteDue deletes the objects that have waited long enough. After a failure they wait
// once more: deleting what is gone does no harm.
func (j *Job) DeleteDue(ctx context.Context) error {
	now := time.Now()
	for len(j.doomed) > 0 && !j.doomed[0].at.After(now) {
		var keys []string
		for _, d := range j.doomed[:min(len(j.doomed), objstore.MaxDeleteKeys)] {
			if d.at.After(now) {
				break
			}
			keys = append(keys, d.key)
		}
		if err := j.delete(ctx, keys); err != nil {
			for i := range keys {
				j.doomed[i].at = now.Add(callTimeout)
			}
			j.doom(nil, now)
			return err
		}
		j.doomed = slices.Delete(j.doomed, 0, len(keys))
		j.metrics.waiting.Set(float64(len(j.doomed)))
	}
	return nil
}

func (j *Job) delete(ctx context.Context, keys []string) error {
	for _, key := range keys {
		j.o.Deleted(key)
	}
	err := bounded(ctx, func(ctx context.Context) error { return j.o.Store.Delete(ctx, keys...) })
	if err != nil {
		return fmt.Errorf("delete %d objects from %s on: %w", len(keys), keys[0], err)
	}
	j.metrics.deleted.Add(float64(len(keys)))
	return nil
}
