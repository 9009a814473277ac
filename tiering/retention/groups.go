package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// groupScans is how often in one retention time of offsets groups are looked at.
const groupScans = 64

// groupsDue tells whether groups have to be looked at, as passDue does.
func (j *Job) groupsDue(p position) bool {
	c, d := j.o.Config(), time.Since(time.UnixMilli(p.Groups))
	return p.Slot > 0 || d < 0 || d >= max(c.OffsetsRetention/groupScans, c.OffsetsRetentionCheck)
}

// groups removes the expired offsets of groups without members, groups of
// which nothing is left, and expired transactional ids, slot by slot. Groups with members are their
// coordinators', who alone know for certain what is subscribed to. One that fails
// does not hold up the others.
func (t *turn) groups(ctx context.Context) error {
	var errs []error
	for ; t.at.Slot < t.o.Slots; t.at.Slot++ {
		slot := kafka.Slot(t.at.Slot)
		var ids []string
		err := bounded(ctx, func(ctx context.Context) (err error) {
			ids, err = t.o.Catalog.Groups(ctx, slot)
			return err
		})
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, id := range ids {
			err := bounded(ctx, func(ctx context.Context) error { return t.group(ctx, slot, id) })
			if ctx.Err() != nil {
				return errors.Join(errs...)
			}
			if err != nil && !errors.Is(err, catalog.ErrFenced) { // else its coordinator is at it
				errs = append(errs, fmt.Errorf("expire offsets of group %q: %w", id, err))
			}
			if err := t.keep(ctx); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		if err := t.txns(ctx, slot); err != nil {
			errs = append(errs, err)
		}
		if err := t.keep(ctx); err != nil || ctx.Err() != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	t.at.Groups, t.at.Slot = time.Now().UnixMilli(), 0
	return errors.Join(errs...)
}

// expiry is what of a group has to go.
type expiry struct {
	state catalog.GroupState
	value catalog.SavedGroup
	gone  []kafka.TopicPartition
	whole bool // nothing would be left of it
}

// group decides twice: by what it reads, and, if something has to go, by what
// there is once the group is claimed. A commit that was acknowledged in between is
// seen then; behind that none is, or the job's own commit fails.
func (t *turn) group(ctx context.Context, slot kafka.Slot, id string) error {
	e, err := t.expiry(ctx, id)
	if err != nil || len(e.gone) == 0 && !e.whole {
		return err
	}
	claimed, err := t.o.Catalog.ClaimGroup(ctx, t.lease, e.state, e.value)
	if err != nil {
		return err
	}
	if e, err = t.expiry(ctx, id); err != nil {
		return err
	}
	switch {
	case e.whole:
		err = t.o.Catalog.RemoveGroup(ctx, slot, claimed)
	case len(e.gone) > 0:
		err = t.o.Catalog.CommitOffsets(ctx, claimed, nil, e.gone)
	}
	if err != nil {
		return err
	}
	t.stats.Offsets += len(e.gone)
	t.metrics.offsets.Add(float64(len(e.gone)))
	return nil
}

// expiry reads a group and decides. Topics are read behind the offsets: so one
// that has offsets and is not among them is one that was deleted.
func (t *turn) expiry(ctx context.Context, id string) (e expiry, err error) {
	var offsets map[kafka.TopicPartition]catalog.GroupOffset
	if e.state, offsets, err = t.o.Catalog.LoadGroup(ctx, id); err != nil || len(e.state.Value) == 0 {
		return e, err
	}
	if e.value, err = catalog.DecodeGroup(e.state.Value); err != nil || !e.value.Empty() || len(e.state.Pending) > 0 {
		return e, err
	}
	for tp := range offsets {
		if _, ok := t.o.Catalog.Topics().ByID(tp.Topic); !ok {
			if err := t.o.Catalog.Refresh(ctx); err != nil {
				return expiry{}, err
			}
			break
		}
	}
	var since time.Time // of a simple group: only the commit counts
	if e.value.ProtocolType != "" {
		since = time.UnixMilli(e.value.EmptySinceMs)
	}
	for tp, o := range offsets {
		_, ok := t.o.Catalog.Topics().ByID(tp.Topic)
		if !ok || !time.Now().Before(o.Expires(since, t.o.Config().OffsetsRetention)) {
			e.gone = append(e.gone, tp)
		}
	}
	e.whole = len(e.gone) == len(offsets)
	return e, nil
}
