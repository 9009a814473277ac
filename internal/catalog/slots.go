package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// Span is a run of a session's WAL that holds a slot's newest records.
type Span struct {
	Session SessionID `json:"s"`
	From    int64     `json:"f"`
	To      int64     `json:"t"` // exclusive; -1: up to the session's seal
}

// CheckpointRef names a checkpoint bundle.
type CheckpointRef struct {
	Key  string `json:"k"`
	Size int64  `json:"n"`
}

// Slot is a slot's item: who owns it, since when, and from where its
// partitions are rebuilt.
type Slot struct {
	Slot        kafka.Slot
	Epoch       kafka.LeaderEpoch // -1: never owned
	Owner       SessionID
	Spans       []Span          // oldest first
	Checkpoints []CheckpointRef // oldest first
	item        meta.Item
}

const slotsPK = "slots"

func slotSK(s kafka.Slot) string { return fmt.Sprintf("%05d", s) }

func slotOf(item meta.Item) (Slot, error) {
	f := read(item)
	s := Slot{
		Slot: kafka.Slot(f.int("slot")), Epoch: kafka.LeaderEpoch(f.int("epoch")),
		Owner: SessionID{Broker: int32(f.int("owner_broker")), Epoch: f.int("owner_session")}, item: bare(item),
	}
	f.json("spans", &s.Spans)
	f.json("checkpoints", &s.Checkpoints)
	return s, f.err
}

func (s Slot) attrs() meta.Attrs {
	return meta.Attrs{
		"v": format, "slot": int64(s.Slot), "epoch": int64(s.Epoch), "owner_broker": int64(s.Owner.Broker), "owner_session": s.Owner.Epoch,
		"spans": jsonText(s.Spans), "checkpoints": jsonText(s.Checkpoints),
	}
}

// old returns the slot's item as it was read; for one that was never owned,
// the absent item.
func (s Slot) old() meta.Item {
	if s.item.Version == 0 {
		return meta.Item{Key: meta.Key{PK: slotsPK, SK: slotSK(s.Slot)}}
	}
	return s.item
}

// Slots returns all slots that were ever owned, in order.
func (c *Catalog) Slots(ctx context.Context) ([]Slot, error) {
	items, err := c.all(ctx, slotsPK, "")
	if err != nil {
		return nil, fmt.Errorf("read slots: %w", err)
	}
	slots := make([]Slot, 0, len(items))
	for _, it := range items {
		s, err := slotOf(it)
		if err != nil {
			return nil, err
		}
		slots = append(slots, s)
	}
	return slots, nil
}

// SameAs tells whether a slot's item is the one that o was read from: nobody
// wrote it in between.
func (s Slot) SameAs(o Slot) bool {
	return s.Slot == o.Slot && s.item.Version == o.item.Version && s.item.CommitID == o.item.CommitID
}

// Slot returns a slot as it is now; one that was never owned has Epoch -1.
func (c *Catalog) Slot(ctx context.Context, n kafka.Slot) (Slot, error) {
	s, err := c.slot(ctx, n)
	if err != nil {
		return s, fmt.Errorf("read slot %d: %w", n, err)
	}
	return s, nil
}

func (c *Catalog) slot(ctx context.Context, n kafka.Slot) (Slot, error) {
	item, err := c.get(ctx, slotsPK, slotSK(n))
	if err != nil {
		return Slot{}, err
	}
	if item.Version == 0 {
		return Slot{Slot: n, Epoch: -1}, nil
	}
	return slotOf(item)
}

// TakeSlots makes sessions the owners of slots whose own have ended, each with its epoch raised by
// one and the spans and checkpoints that it is given with: those in to, and mine of
// all others. The commit checks that they are live and that every former owner in ended is sealed. Slots,
// former owners and owners besides mine: 97 at most. ErrFenced: a condition was false.
func (c *Catalog) TakeSlots(ctx context.Context, mine Session, ended map[SessionID]Session, slots []Slot, to map[kafka.Slot]Session) ([]Slot, error) {
	guards := []Session{mine}
	live, sealed := map[SessionID]bool{mine.ID: true}, make(map[SessionID]bool)
	owners := make([]SessionID, len(slots))
	for i, s := range slots {
		owner, others := to[s.Slot]
		if !others {
			owner = mine
		}
		if owner.State != Live {
			return nil, fmt.Errorf("take slot %d: who should have it is %s: %w", s.Slot, owner.State, ErrFenced)
		}
		if owners[i] = owner.ID; !live[owner.ID] {
			live[owner.ID] = true
			guards = append(guards, owner)
		}
		if s.Epoch >= 0 && !sealed[s.Owner] {
			before, ok := ended[s.Owner]
			if !ok || before.State != Sealed {
				return nil, fmt.Errorf("take slot %d: its owner is not sealed: %w", s.Slot, ErrFenced)
			}
			sealed[s.Owner] = true
			guards = append(guards, before)
		}
	}
	next, err := c.moveSlots(ctx, guards, slots, owners)
	if err != nil {
		return nil, fmt.Errorf("take %d slots: %w", len(slots), err)
	}
	return next, nil
}

// HandOver makes target the owner of mine's slots, each with its epoch raised
// by one and the spans and checkpoints that it is given with. The commit checks that
// both are live. At most 40 slots. ErrFenced: a condition was false, nothing was
// written; ErrUnknown: it may still land until mine has written the slots itself.
func (c *Catalog) HandOver(ctx context.Context, mine, target Session, slots []Slot) ([]Slot, error) {
	if target.State != Live {
		return nil, fmt.Errorf("hand over %d slots: session %d/%d is %s: %w", len(slots), target.ID.Broker, target.ID.Epoch, target.State, ErrFenced)
	}
	next, err := c.moveSlots(ctx, []Session{mine, target}, slots, slices.Repeat([]SessionID{target.ID}, len(slots)))
	if err != nil {
		return nil, fmt.Errorf("hand over %d slots: %w", len(slots), err)
	}
	return next, nil
}

// KeepSlots raises the epoch of mine's slots, which ends what anybody may have
// on its way to them. At most 40 slots. ErrFenced: a condition was false.
func (c *Catalog) KeepSlots(ctx context.Context, mine Session, slots []Slot) ([]Slot, error) {
	next, err := c.moveSlots(ctx, []Session{mine}, slots, slices.Repeat([]SessionID{mine.ID}, len(slots)))
	if err != nil {
		return nil, fmt.Errorf("keep %d slots: %w", len(slots), err)
	}
	return next, nil
}

// moveSlots writes the slots with new owners, one for each, and the next epoch, and tells it
// in the change feed.
func (c *Catalog) moveSlots(ctx context.Context, guards []Session, slots []Slot, owners []SessionID) ([]Slot, error) {
	next := slices.Clone(slots)
	for i := range next {
		next[i].Epoch, next[i].Owner = next[i].Epoch+1, owners[i]
	}
	e := entry{kind: changeSlots, value: jsonText(ownerChanges(next))}
	if err := c.writeSlots(ctx, guards, next, &e); err != nil {
		return nil, err
	}
	return next, c.see(ctx)
}

// CommitCheckpoint writes the slots' spans and checkpoints, on condition that
// mine is live and each slot is as it was last read. At most 90 slots.
// ErrFenced: a condition was false.
func (c *Catalog) CommitCheckpoint(ctx context.Context, mine Session, slots []Slot) ([]Slot, error) {
	next := slices.Clone(slots)
	if err := c.writeSlots(ctx, []Session{mine}, next, nil); err != nil {
		return nil, fmt.Errorf("commit checkpoint of %d slots: %w", len(slots), err)
	}
	return next, nil
}

// writeSlots writes the slots and their items, if they are as they were read and
// the guards are in the state that they are given with, of which the first must
// be live; with e it also makes a change. That a guard was written since (a trim),
// or that the feed has grown, is no obstacle: then it is tried again.
func (c *Catalog) writeSlots(ctx context.Context, guards []Session, slots []Slot, e *entry) error {
	for {
		if guards[0].State != Live {
			return ErrFenced
		}
		var ops []meta.Op
		for _, g := range guards {
			ops = append(ops, meta.Check(g.item))
		}
		for _, s := range slots {
			ops = append(ops, meta.Put(s.old(), s.attrs()))
		}
		change := c.Applied()
		if e != nil {
			ops = append(ops, e.create(change+1))
		}
		id, err := c.commit(ctx, ops...)
		if err == nil {
			for i, s := range slots {
				slots[i].item = written(meta.Put(s.old(), nil), id)
			}
			return nil
		}
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		before := guards
		err = repeat(ctx, func() (err error) {
			guards, err = c.renewed(ctx, before)
			return err
		}, func(err error) bool { return err != nil && !errors.Is(err, ErrFenced) })
		if err == nil && e != nil {
			err = c.see(ctx)
		}
		if err != nil {
			return err
		}
		if sameItems(before, guards) && (e == nil || c.Applied() == change) {
			return ErrFenced
		}
	}
}

// renewed reads the guards anew. ErrFenced: one is no longer in its state.
func (c *Catalog) renewed(ctx context.Context, guards []Session) ([]Session, error) {
	now := make([]Session, len(guards))
	for i, g := range guards {
		var err error
		now[i], err = c.Session(ctx, g.ID)
		switch {
		case errors.Is(err, ErrNotFound), err == nil && now[i].State != g.State:
			return nil, ErrFenced
		case err != nil:
			return nil, err
		}
	}
	return now, nil
}

func sameItems(a, b []Session) bool {
	return slices.EqualFunc(a, b, func(a, b Session) bool { return a.item.CommitID == b.item.CommitID })
}

func startsPK(s kafka.Slot) string { return fmt.Sprintf("starts/%05d", s) }

func tpSK(tp kafka.TopicPartition) string {
	return fmt.Sprintf("%s/%010d", tp.Topic.Hex(), tp.Partition)
}

// LogStarts returns the log start offsets of a slot's partitions that are not 0.
func (c *Catalog) LogStarts(ctx context.Context, slot kafka.Slot) (map[kafka.TopicPartition]kafka.Offset, error) {
	items, err := c.all(ctx, startsPK(slot), "")
	if err != nil {
		return nil, fmt.Errorf("read log starts of slot %d: %w", slot, err)
	}
	starts := make(map[kafka.TopicPartition]kafka.Offset, len(items))
	for _, it := range items {
		f := read(it)
		id, err := kafka.ParseTopicID(f.text("topic"))
		if err = errors.Join(f.err, err); err != nil {
			return nil, err
		}
		starts[kafka.TopicPartition{Topic: id, Partition: int32(f.int("partition"))}] = kafka.Offset(f.int("offset"))
		if f.err != nil {
			return nil, f.err
		}
	}
	return starts, nil
}

// SetLogStart raises a partition's log start offset, on condition that slot is
// still owned at its epoch by a live session (who takes it reads the starts when that has ended) and the topic is
// there; it never falls. ErrFenced; ErrNotFound: the topic was deleted.
func (c *Catalog) SetLogStart(ctx context.Context, slot Slot, tp kafka.TopicPartition, off kafka.Offset) error {
	err := again(ctx, func() error {
		owned, err := c.slot(ctx, slot.Slot)
		if err != nil {
			return err
		}
		if owned.Owner != slot.Owner || owned.Epoch != slot.Epoch {
			return ErrFenced
		}
		owner, err := c.session(ctx, slot.Owner)
		if err != nil {
			return err
		}
		if owner.State != Live {
			return ErrFenced
		}
		topic, err := c.topicByID(ctx, tp.Topic)
		if err != nil {
			return err
		}
		item, err := c.get(ctx, startsPK(slot.Slot), tpSK(tp))
		if err != nil {
			return err
		}
		if item.Version > 0 {
			f := read(item)
			if now := f.int("offset"); f.err != nil || now >= int64(off) {
				return f.err
			}
		}
		_, err = c.commit(ctx, meta.Check(owned.item), meta.Check(owner.item), meta.Check(topic.item), meta.Put(item, startAttrs(tp, off)))
		return err
	})
	if err != nil {
		return fmt.Errorf("set log start of %s to %d: %w", tp, off, err)
	}
	return nil
}

// RemoveLogStart forgets a deleted topic's partition.
func (c *Catalog) RemoveLogStart(ctx context.Context, slot kafka.Slot, tp kafka.TopicPartition) error {
	err := again(ctx, func() error {
		item, err := c.get(ctx, startsPK(slot), tpSK(tp))
		if err != nil || item.Version == 0 {
			return err
		}
		_, err = c.commit(ctx, meta.Delete(item))
		return err
	})
	if err != nil {
		return fmt.Errorf("remove log start of %s: %w", tp, err)
	}
	return nil
}
