package retention

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// remove unreferences entries of a partition and dooms their objects.
// replacement concerns the batch that has its base.
func (j *Job) remove(ctx context.Context, p Partition, segs []catalog.Segment, replacement *catalog.Segment) error {
	err := bounded(ctx, func(ctx context.Context) error {
		return j.o.Catalog.RemoveSegments(ctx, &p.Topic, segs, replacement)
	})
	if err != nil {
		if !errors.Is(err, catalog.ErrNotFound) && len(j.unsure) < maxUnsure {
			j.unsure[p.TP] = append(without(j.unsure[p.TP], segs), without(segs, nil)...)
		}
		return err
	}
	j.removed(p, segs)
	return nil
}

// removed takes note of entries that are in the catalogue no more.
func (j *Job) removed(p Partition, segs []catalog.Segment) {
	if left := without(j.unsure[p.TP], segs); len(left) > 0 {
		j.unsure[p.TP] = left
	} else {
		delete(j.unsure, p.TP)
	}
	j.o.Unreferenced(p.TP)
	j.doom(segs, time.Now().Add(p.Config.FileDeleteDelay))
	j.metrics.removed.Add(float64(len(segs)))
	for i := range segs {
		j.metrics.bytes.Add(float64(segs[i].Size))
	}
	j.o.Logger.Info("segments removed", "topic", p.Topic.Name, "partition", p.TP.Partition, "count", len(segs), "from", segs[0].Base, "to", segs[len(segs)-1].End)
}

// settle dooms the objects of entries that went although the removal was
// answered by an error. Those that are still there stay unsure, until a removal
// is answered: the first one may still land.
func (j *Job) settle(ctx context.Context, p Partition) error {
	segs := j.unsure[p.TP]
	if len(segs) == 0 {
		return nil
	}
	var there []catalog.Segment
	err := bounded(ctx, func(ctx context.Context) (err error) {
		there, err = j.o.Catalog.Segments(ctx, p.TP, slices.MinFunc(segs, byBase).Base, len(segs)+1)
		return err
	})
	if err != nil {
		return fmt.Errorf("read segments: %w", err)
	}
	if gone := without(segs, there); len(gone) > 0 {
		j.removed(p, gone)
	}
	return nil
}

func byBase(a, b catalog.Segment) int { return cmp.Compare(a.Base, b.Base) }

// without returns the entries of segs that name an object which none of others names.
func without(segs, others []catalog.Segment) []catalog.Segment {
	return slices.DeleteFunc(slices.Clone(segs), func(s catalog.Segment) bool {
		return s.Key == "" || slices.ContainsFunc(others, func(o catalog.Segment) bool { return o.Key == s.Key })
	})
}
