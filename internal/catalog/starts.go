package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// changeStarts is the kind of a change that raised log starts; its value is
// the list of their slots.
const changeStarts = "starts"

// LogStart is a log's start as a job raises it.
type LogStart struct {
	Slot   kafka.Slot
	TP     kafka.TopicPartition
	Topic  string
	Offset kafka.Offset
}

// RaiseLogStarts raises the starts of up to 40 logs with one commit, of which
// the change feed tells the owners. Those of topics that are gone are passed
// over, and none falls. ErrFenced: the lease is somebody else's.
func (c *Catalog) RaiseLogStarts(ctx context.Context, lease Lease, starts []LogStart) error {
	e := &entry{kind: changeStarts}
	err := again(ctx, func() error {
		if err := c.Refresh(ctx); err != nil {
			return err
		}
		ops, slots, err := c.raises(ctx, starts)
		if err != nil || len(ops) == 0 {
			return err
		}
		e.value = jsonText(slots)
		ops = append(ops, meta.Check(lease.item), e.create(c.Applied()+1))
		if _, err = c.commit(ctx, ops...); !errors.Is(err, meta.ErrConflict) {
			return err
		}
		now, lerr := c.Lease(ctx, lease.Job)
		if lerr == nil && now.item.CommitID != lease.item.CommitID {
			lerr = ErrFenced
		}
		if lerr != nil {
			return lerr
		}
		return err
	})
	if err == nil {
		err = c.see(ctx)
	}
	if err != nil {
		return fmt.Errorf("raise %d log starts: %w", len(starts), err)
	}
	return nil
}

// raises returns the operations that raise what is lower, and the slots concerned.
func (c *Catalog) raises(ctx context.Context, starts []LogStart) (ops []meta.Op, slots []kafka.Slot, err error) {
	checked := make(map[string]bool)
	for _, s := range starts {
		topic, ok := c.Topics().ByName(s.Topic)
		if !ok || topic.ID != s.TP.Topic {
			continue
		}
		item, err := c.get(ctx, startsPK(s.Slot), tpSK(s.TP))
		if err != nil {
			return nil, nil, err
		}
		if item.Version > 0 {
			f := read(item)
			if now := f.int("offset"); f.err != nil || now >= int64(s.Offset) {
				if f.err != nil {
					return nil, nil, f.err
				}
				continue
			}
		}
		if !checked[s.Topic] {
			checked[s.Topic] = true
			ops = append(ops, meta.Check(topic.item))
		}
		ops = append(ops, meta.Put(item, startAttrs(s.TP, s.Offset)))
		slots = append(slots, s.Slot)
	}
	slices.Sort(slots)
	return ops, slices.Compact(slots), nil
}

func startAttrs(tp kafka.TopicPartition, off kafka.Offset) meta.Attrs {
	return meta.Attrs{"v": format, "topic": tp.Topic.Hex(), "partition": int64(tp.Partition), "offset": int64(off)}
}

// startChanges tells at which change a slot's log starts were last raised by a
// job, as far as a snapshot knows.
type startChanges struct {
	since int64 // what came before is unknown
	slots map[kafka.Slot]int64
}

func (s startChanges) with(value string, change int64) (startChanges, error) {
	var slots []kafka.Slot
	if err := json.Unmarshal([]byte(value), &slots); err != nil {
		return s, err
	}
	s.slots = maps.Clone(s.slots)
	if s.slots == nil {
		s.slots = make(map[kafka.Slot]int64, len(slots))
	}
	for _, n := range slots {
		s.slots[n] = change
	}
	return s, nil
}

// StartsRaised returns the change at which a job last raised log starts of a
// slot, or may have. Who has read LogStarts when an older snapshot was the newest
// reads them anew.
func (t *Topics) StartsRaised(slot kafka.Slot) int64 {
	return max(t.starts.since, t.starts.slots[slot])
}
