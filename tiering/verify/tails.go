package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// tails verifies what lies behind the sealed segments: that the slots'
// checkpoints and spans make up tails without a hole, which follow the segments.
func (v *run) tails(ctx context.Context, cluster catalog.Cluster) error {
	logs, err := v.logs(cluster)
	if err != nil {
		return err
	}
	whole, err := v.checkpoints(ctx)
	if err == nil {
		err = v.seals(ctx)
	}
	if err != nil || !whole {
		return err // what a checkpoint had nobody can follow
	}
	numbers := make([]kafka.Slot, cluster.Slots)
	for i := range numbers {
		numbers[i] = kafka.Slot(i)
	}
	before, err := v.starts(ctx, numbers)
	if err != nil {
		return err
	}
	tails, err := recovery.NewObserver(v.Store, v.Catalog, numbers).Look(ctx)
	switch {
	case errors.Is(err, wal.ErrHole), errors.Is(err, recovery.ErrInconsistent), errors.Is(err, objstore.ErrNotFound):
		v.found(Finding{Kind: Gap, Detail: err.Error()})
		return nil
	case errors.Is(err, bundle.ErrCorrupt):
		v.found(Finding{Kind: Corrupt, Detail: err.Error()})
		return nil
	case err != nil:
		return err
	}
	after, err := v.starts(ctx, numbers)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if err := v.tail(ctx, l, tails[l.tp], before[l.tp], after[l.tp]); err != nil {
			return err
		}
	}
	return nil
}

// starts returns the log starts in some slots.
func (v *run) starts(ctx context.Context, numbers []kafka.Slot) (map[kafka.TopicPartition]kafka.Offset, error) {
	all := make(map[kafka.TopicPartition]kafka.Offset)
	for _, n := range numbers {
		starts, err := get(ctx, func(ctx context.Context) (map[kafka.TopicPartition]kafka.Offset, error) {
			return v.Catalog.LogStarts(ctx, n)
		})
		if err != nil {
			return nil, err
		}
		maps.Copy(all, starts)
	}
	return all, nil
}

// tail checks that a tail begins where the segments end, or at the log's start
// as it was after the look, and that its start before the look does not lie behind its end.
func (v *run) tail(ctx context.Context, l log, t recovery.Tail, before, after kafka.Offset) (err error) {
	var sealed catalog.Segment
	err = bounded(ctx, func(ctx context.Context) error {
		sealed, _, err = v.Catalog.NewestSegment(ctx, l.tp)
		return err
	})
	if err != nil {
		return err
	}
	begin := max(sealed.End, after)
	if err := t.From(min(after, t.State.NextOffset)); err != nil {
		v.found(l.finding(Gap, begin, "", "the tail: %v", err))
	}
	if len(t.Hot) > 0 && t.Hot[0].Base > begin {
		v.found(l.finding(Gap, begin, "", "the segments end there, the tail begins at offset %d", t.Hot[0].Base))
	}
	if len(t.Hot) == 0 && t.State.NextOffset > begin {
		v.found(l.finding(Gap, begin, "", "the segments end there, the log at offset %d", t.State.NextOffset))
	}
	if end := max(sealed.End, t.State.NextOffset); before > end {
		v.found(l.finding(Invalid, before, "", "the log starts there and ends at offset %d", end))
	}
	return nil
}

// checkpoints checks that all that the slots name are there.
func (v *run) checkpoints(ctx context.Context) (whole bool, err error) {
	slots, err := get(ctx, v.Catalog.Slots)
	if err != nil {
		return false, err
	}
	whole = true
	for _, key := range recovery.CheckpointKeys(slots) {
		obj, err := get(ctx, func(ctx context.Context) (*bundle.Object, error) {
			return bundle.Read(ctx, bundle.At(v.Store, key), nil)
		})
		if err == nil && obj.Kind != bundle.KindCheckpoint {
			err = fmt.Errorf("%w: an object of kind %d", bundle.ErrCorrupt, obj.Kind)
		}
		k, wrong := kindOf(err)
		if err != nil && !wrong {
			return false, err
		}
		if !wrong {
			continue
		}
		now, err := get(ctx, v.Catalog.Slots)
		if err != nil {
			return false, err
		}
		if slices.Contains(recovery.CheckpointKeys(now), key) {
			v.found(Finding{Kind: k, Key: key, Detail: "a checkpoint that slots name"})
			whole = false
		}
	}
	return whole, nil
}

// seals checks that sealed sessions have their seals, and slots their owners.
func (v *run) seals(ctx context.Context) error {
	slots, err := get(ctx, v.Catalog.Slots)
	if err != nil {
		return err
	}
	all, err := get(ctx, v.Catalog.AllSessions)
	if err != nil {
		return err
	}
	known := make(map[catalog.SessionID]bool, len(all))
	for _, s := range all {
		known[s.ID] = true
		if s.State != catalog.Sealed {
			continue
		}
		key := wal.Key(bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Seq: s.SealedAt})
		obj, err := get(ctx, func(ctx context.Context) (*bundle.Object, error) {
			return bundle.Read(ctx, bundle.At(v.Store, key), nil)
		})
		if err == nil && obj.Kind != bundle.KindSeal {
			err = fmt.Errorf("%w: an object of kind %d", bundle.ErrCorrupt, obj.Kind)
		}
		if k, wrong := kindOf(err); wrong {
			v.found(Finding{Kind: k, Key: key, Detail: fmt.Sprintf("the seal of session %d of broker %d: %v", s.ID.Epoch, s.ID.Broker, err)})
		} else if err != nil {
			return err
		}
	}
	for _, s := range slots {
		if s.Epoch < 0 || known[s.Owner] {
			continue
		}
		if _, err := get(ctx, func(ctx context.Context) (catalog.Session, error) { return v.Catalog.Session(ctx, s.Owner) }); errors.Is(err, catalog.ErrNotFound) {
			v.found(Finding{Kind: Invalid, Detail: fmt.Sprintf("slot %d is owned by session %d of broker %d, which is not there", s.Slot, s.Owner.Epoch, s.Owner.Broker)})
		} else if err != nil {
			return err
		}
	}
	return nil
}
