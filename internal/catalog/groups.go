package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// GroupState is a group's state: a SavedGroup as text, and the item that the
// coordinator's commits are conditional on.
type GroupState struct {
	ID    string
	Value []byte
	// Pending has, by producer id, what open transactions have for the group, as it was read and put since.
	Pending   map[int64]PendingOffsets
	exists    bool
	item      meta.Item
	chunks    []meta.Item         // of a value too large for one item
	producers map[int64]meta.Item // that have, or had, something in Pending
}

// GroupOffset is a committed offset.
type GroupOffset struct {
	Offset      kafka.Offset      `json:"o"`
	LeaderEpoch kafka.LeaderEpoch `json:"e"`
	Metadata    string            `json:"m,omitempty"`
	CommitMs    int64             `json:"t"`           // when it was committed, ms since the Unix epoch
	Order       int64             `json:"n,omitempty"` // place among the group's commits, those of open transactions too; grows
	ExpireMs    int64             `json:"x,omitempty"` // when it expires by the client's wish; 0: by the broker's setting
}

// Expires returns when an offset may go: when its client said, else a retention
// after it was committed, or since a moment behind that (KIP-211).
func (o GroupOffset) Expires(since time.Time, retention time.Duration) time.Time {
	if o.ExpireMs > 0 {
		return time.UnixMilli(o.ExpireMs)
	}
	from := time.UnixMilli(o.CommitMs)
	if since.After(from) {
		from = since
	}
	return from.Add(retention)
}

const (
	chunkBytes = 256 << 10 // of a group's state in one item
	maxChunks  = 12
	runLen     = 64 // partitions in one offsets item
	maxRuns    = 90 // offsets items in one commit

	maxRunBytes = 3 << 20 // of offsets in one commit

	stateSK       = "state"
	partPrefix    = "part/"
	offsetsPrefix = "offsets/"
	afterOffsets  = "offsets0" // '0' follows '/'; the state, its parts and what is pending sort behind

	jobBroker = -1 // in a fence: not a broker, but a job
)

// storedID is a group's or transactional id in keys, which are not empty, as an id may be (of old simple
// consumers): such an id, and one that could be taken for it, gets a NUL before it.
func storedID(id string) string {
	if id == "" || id[0] == 0 {
		return "\x00" + id
	}
	return id
}

func idOf(stored string) string { return strings.TrimPrefix(stored, "\x00") }

func groupPK(id string) string { return "group/" + storedID(id) }

func groupsPK(slot kafka.Slot) string { return fmt.Sprintf("groups/%05d", slot) }

// Groups returns the ids of a slot's groups.
func (c *Catalog) Groups(ctx context.Context, slot kafka.Slot) ([]string, error) {
	items, err := c.all(ctx, groupsPK(slot), "")
	if err != nil {
		return nil, fmt.Errorf("list groups of slot %d: %w", slot, err)
	}
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = idOf(it.SK)
	}
	return ids, nil
}

// LoadGroup reads a group's state and offsets. A group that is not there has
// an empty Value. Who takes a group over saves its state first and loads its
// offsets afterwards: until then its former coordinator may still commit.
func (c *Catalog) LoadGroup(ctx context.Context, id string) (GroupState, map[kafka.TopicPartition]GroupOffset, error) {
	var g GroupState
	var offsets map[kafka.TopicPartition]GroupOffset
	err := again(ctx, func() error {
		items, err := c.all(ctx, groupPK(id), "")
		if err != nil {
			return err
		}
		g = GroupState{ID: id, item: meta.Item{Key: meta.Key{PK: groupPK(id), SK: stateSK}}}
		if offsets, err = offsetsOf(items); err != nil {
			return err
		}
		return g.fill(items)
	})
	if err != nil {
		return g, nil, fmt.Errorf("load group %q: %w", id, err)
	}
	return g, offsets, nil
}

// ReadGroupState is LoadGroup without the offsets.
func (c *Catalog) ReadGroupState(ctx context.Context, id string) (GroupState, error) {
	var g GroupState
	err := again(ctx, func() error {
		items, err := c.inRange(ctx, groupPK(id), meta.Range{After: afterOffsets})
		if err != nil {
			return err
		}
		g = GroupState{ID: id, item: meta.Item{Key: meta.Key{PK: groupPK(id), SK: stateSK}}}
		return g.fill(items)
	})
	if err != nil {
		return g, fmt.Errorf("read state of group %q: %w", id, err)
	}
	return g, nil
}

// GroupStands tells whether a group's state is still as g was read or saved: it
// reads one item, however large the group.
func (c *Catalog) GroupStands(ctx context.Context, g GroupState) (stands bool, err error) {
	err = again(ctx, func() error {
		item := g.item
		item.Key = meta.Key{PK: groupPK(g.ID), SK: stateSK} // none of a group that is not there
		stands, err = c.stands(ctx, item)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read state of group %q: %w", g.ID, err)
	}
	return stands, nil
}

// fill puts the state together from a group's items. Those of one state are
// written by one commit; that they are not means a conflict: it was written
// while they were read.
func (g *GroupState) fill(items []meta.Item) error {
	if err := g.fillPending(items); err != nil {
		return err
	}
	var value [][]byte
	for _, it := range items {
		if it.SK != stateSK && !strings.HasPrefix(it.SK, partPrefix) {
			continue
		}
		f := read(it)
		value = append(value, f.bytes("value"))
		if f.err != nil {
			return f.err
		}
		if it.SK == stateSK {
			g.item, g.exists = bare(it), true
		} else {
			g.chunks = append(g.chunks, bare(it))
		}
	}
	for _, ch := range g.chunks {
		if ch.CommitID != g.item.CommitID {
			return meta.ErrConflict
		}
	}
	if n := len(value); n > 0 { // the first chunk is in the state's item, which sorts last
		g.Value = slices.Concat(value[n-1], slices.Concat(value[:n-1]...))
	}
	return nil
}

func offsetsOf(items []meta.Item) (map[kafka.TopicPartition]GroupOffset, error) {
	offsets := make(map[kafka.TopicPartition]GroupOffset)
	for _, it := range items {
		if !strings.HasPrefix(it.SK, offsetsPrefix) {
			continue
		}
		topic, run, err := runOf(it)
		if err != nil {
			return nil, err
		}
		for p, o := range run {
			offsets[kafka.TopicPartition{Topic: topic, Partition: p}] = o
		}
	}
	return offsets, nil
}

// SaveGroup writes a group's state, on condition that slot is owned as it
// says and the state is as g was read or saved. The value is not copied: the
// caller does not change it any more. ErrFenced: a condition was false.
func (c *Catalog) SaveGroup(ctx context.Context, slot Slot, g GroupState) (GroupState, error) {
	ops, n, err := g.puts()
	if err != nil {
		return g, err
	}
	if !g.exists {
		index := meta.Item{Key: meta.Key{PK: groupsPK(slot.Slot), SK: storedID(g.ID)}}
		ops = append(ops, meta.Create(index.Key, meta.Attrs{"v": format}))
	}
	gone, left := g.gone()
	id, err := c.withSlot(ctx, slot, append(ops, gone...))
	if err != nil {
		return g, fmt.Errorf("save group %q: %w", g.ID, err)
	}
	g = g.saved(ops[:n], id)
	g.producers = left
	return g, nil
}

// puts returns the operations that write the value. The first n put it, the
// others delete what it takes no longer.
func (g GroupState) puts() (ops []meta.Op, n int, err error) {
	parts := chunk(g.Value)
	if len(parts) > maxChunks {
		return nil, 0, fmt.Errorf("save group %q: %d bytes: %w", g.ID, len(g.Value), ErrTooLarge)
	}
	ops = []meta.Op{meta.Put(g.item, meta.Attrs{"v": format, "value": parts[0]})}
	for i, p := range parts[1:] {
		old := meta.Item{Key: meta.Key{PK: groupPK(g.ID), SK: fmt.Sprintf(partPrefix+"%03d", i)}}
		if i < len(g.chunks) {
			old = g.chunks[i]
		}
		ops = append(ops, meta.Put(old, meta.Attrs{"v": format, "value": p}))
	}
	for i := len(parts) - 1; i < len(g.chunks); i++ {
		ops = append(ops, meta.Delete(g.chunks[i]))
	}
	return ops, len(parts), nil
}

// saved returns the state as a commit of puts has left it.
func (g GroupState) saved(puts []meta.Op, id string) GroupState {
	next := GroupState{ID: g.ID, Value: g.Value, Pending: g.Pending, exists: true, item: written(puts[0], id), producers: g.producers}
	for _, op := range puts[1:] {
		next.chunks = append(next.chunks, written(op, id))
	}
	return next
}

// ClaimGroup makes a group a job's: it writes the state with the lease's fence,
// on condition that the lease is held and the state is as g was read. That ends
// all commits of who had read it before, and who loads it later writes it before
// anything else; so what is read of its offsets now is all there is while
// the state that is returned stands. ErrFenced: a condition was false.
func (c *Catalog) ClaimGroup(ctx context.Context, lease Lease, g GroupState, value SavedGroup) (GroupState, error) {
	value.Fence = GroupFence{Broker: jobBroker, Session: lease.Epoch}
	g.Value = value.Encode()
	ops, n, err := g.puts()
	if err != nil {
		return g, err
	}
	id, err := c.commit(ctx, append(ops, meta.Check(lease.item))...)
	if err != nil {
		return g, fmt.Errorf("claim group %q: %w", g.ID, fencedIf(err))
	}
	return g.saved(ops[:n], id), nil
}

// withSlot commits ops and a check of the slot's owner. The slot's item
// changes with every checkpoint: then it is tried again with the item of now.
func (c *Catalog) withSlot(ctx context.Context, slot Slot, ops []meta.Op) (id string, err error) {
	for checked := slot; ; {
		id, err = c.commit(ctx, append([]meta.Op{meta.Check(checked.old())}, ops...)...)
		if !errors.Is(err, meta.ErrConflict) {
			return id, err
		}
		now, err := c.slot(ctx, slot.Slot)
		if err != nil {
			return "", err
		}
		if now.Owner != slot.Owner || now.Epoch != slot.Epoch || now.item.CommitID == checked.item.CommitID {
			return "", ErrFenced // taken, or it was not the slot that had changed
		}
		checked = now
	}
}

func chunk(v []byte) [][]byte {
	parts := [][]byte{v[:min(len(v), chunkBytes)]}
	for v = v[len(parts[0]):]; len(v) > 0; {
		n := min(len(v), chunkBytes)
		parts = append(parts, v[:n])
		v = v[n:]
	}
	return parts
}

// CommitOffsets writes and deletes committed offsets, on condition that the
// group's state is as g was read or saved. What does not fit one commit is
// split into several. ErrFenced: the state has changed. ErrTooLarge: the
// metadata of 64 neighbouring partitions does not fit an item.
//
// The item of a run of partitions stays when its last offset goes, so that a
// delayed commit of theirs finds it there and fails.
func (c *Catalog) CommitOffsets(ctx context.Context, g GroupState, set map[kafka.TopicPartition]GroupOffset, del []kafka.TopicPartition) error {
	runs := make(map[string]map[int32]*GroupOffset)
	for tp, o := range set {
		addRun(runs, tp, &o)
	}
	for _, tp := range del {
		addRun(runs, tp, nil)
	}
	for keys := slices.Sorted(maps.Keys(runs)); len(keys) > 0; {
		n, err := c.commitRuns(ctx, g, keys, runs)
		if err != nil {
			return fmt.Errorf("commit offsets of group %q: %w", g.ID, err)
		}
		keys = keys[n:]
	}
	return nil
}

func addRun(runs map[string]map[int32]*GroupOffset, tp kafka.TopicPartition, o *GroupOffset) {
	sk := fmt.Sprintf("%s%s/%06d", offsetsPrefix, tp.Topic.Hex(), tp.Partition/runLen)
	if runs[sk] == nil {
		runs[sk] = make(map[int32]*GroupOffset)
	}
	runs[sk][tp.Partition] = o
}

// commitRuns commits the first n runs of keys, as many as fit. A refusal while
// the group's state is unchanged is a delayed commit of its own that landed.
func (c *Catalog) commitRuns(ctx context.Context, g GroupState, keys []string, runs map[string]map[int32]*GroupOffset) (n int, err error) {
	err = again(ctx, func() error {
		ops := []meta.Op{meta.Check(g.item)}
		size := 0
		for _, sk := range keys[:min(len(keys), maxRuns)] {
			item, err := c.get(ctx, groupPK(g.ID), sk)
			if err != nil {
				return err
			}
			text, err := mergeRun(item, runs[sk])
			if err != nil {
				return err
			}
			if size += len(text); size > maxRunBytes && len(ops) > 1 {
				break
			}
			ops = append(ops, meta.Put(item, meta.Attrs{"v": format, "topic": strings.Split(sk, "/")[1], "offsets": text}))
		}
		n = len(ops) - 1
		_, err := c.commit(ctx, ops...)
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		now, gerr := c.get(ctx, groupPK(g.ID), stateSK)
		if gerr != nil {
			return gerr
		}
		if now.Version != g.item.Version || now.CommitID != g.item.CommitID {
			return ErrFenced
		}
		return err
	})
	return n, err
}

// mergeRun returns the run that an item holds as text, with changes made to it.
func mergeRun(item meta.Item, changes map[int32]*GroupOffset) (string, error) {
	run := map[int32]GroupOffset{}
	if item.Version > 0 {
		var err error
		if _, run, err = runOf(item); err != nil {
			return "", err
		}
	}
	for p, o := range changes {
		if o == nil {
			delete(run, p)
			continue
		}
		run[p] = *o
	}
	return jsonText(run), nil
}

// runOf reads an offsets item: its topic, and the offsets by partition.
func runOf(item meta.Item) (kafka.TopicID, map[int32]GroupOffset, error) {
	f := read(item)
	run := map[int32]GroupOffset{}
	id, err := kafka.ParseTopicID(f.text("topic"))
	f.json("offsets", &run)
	if err = errors.Join(f.err, err); err != nil {
		return kafka.TopicID{}, nil, err
	}
	return id, run, nil
}

// DeleteGroup removes a group with its offsets, on condition that its state is
// as g was read or saved. The state is written anew first, which ends all
// commits of offsets that may still be on their way, and goes last, so that
// after a crash the group is there to be deleted again. ErrFenced, ErrNotFound.
func (c *Catalog) DeleteGroup(ctx context.Context, slot Slot, g GroupState) error {
	if !g.exists {
		return fmt.Errorf("delete group %q: %w", g.ID, ErrNotFound)
	}
	g, err := c.SaveGroup(ctx, slot, g)
	if err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, err)
	}
	return c.RemoveGroup(ctx, slot.Slot, g)
}

// RemoveGroup is DeleteGroup for who has just written the state: its saver, or
// the job that has claimed it.
func (c *Catalog) RemoveGroup(ctx context.Context, slot kafka.Slot, g GroupState) error {
	items, err := c.all(ctx, groupPK(g.ID), offsetsPrefix)
	if err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, err)
	}
	pending, err := c.all(ctx, groupPK(g.ID), txnPrefix)
	if err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, err)
	}
	items = append(items, pending...)
	for part := range slices.Chunk(items, maxRuns) {
		ops := []meta.Op{meta.Check(g.item)}
		for _, it := range part {
			ops = append(ops, meta.Delete(it))
		}
		if _, err := c.commit(ctx, ops...); err != nil {
			return fmt.Errorf("delete offsets of group %q: %w", g.ID, fencedIf(err))
		}
	}
	index, err := c.get(ctx, groupsPK(slot), storedID(g.ID))
	if err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, err)
	}
	ops := []meta.Op{meta.Delete(g.item)}
	for _, ch := range g.chunks {
		ops = append(ops, meta.Delete(ch))
	}
	if index.Version > 0 {
		ops = append(ops, meta.Delete(index))
	}
	if _, err := c.commit(ctx, ops...); err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, fencedIf(err))
	}
	return nil
}
