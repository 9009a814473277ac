package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// GroupState is a group's state: a value that the group coordinator encodes,
// and the item that its commits are conditional on.
type GroupState struct {
	ID     string
	Value  []byte
	exists bool
	item   meta.Item
	chunks []meta.Item // of a value too large for one item
}

// GroupOffset is a committed offset.
type GroupOffset struct {
	Offset      kafka.Offset      `json:"o"`
	LeaderEpoch kafka.LeaderEpoch `json:"e"`
	Metadata    string            `json:"m,omitempty"`
	CommitMs    int64             `json:"t"`           // when it was committed, ms since the Unix epoch
	ExpireMs    int64             `json:"x,omitempty"` // when it expires by the client's wish; 0: by the broker's setting
}

const (
	chunkBytes = 256 << 10 // of a group's state in one item
	maxChunks  = 12
	runLen     = 64 // partitions in one offsets item
	maxRuns    = 90 // offsets items in one commit
)

func groupPK(id string) string { return "group/" + id }

func groupsPK(slot kafka.Slot) string { return fmt.Sprintf("groups/%05d", slot) }

// Groups returns the ids of a slot's groups.
func (c *Catalog) Groups(ctx context.Context, slot kafka.Slot) ([]string, error) {
	items, err := c.all(ctx, groupsPK(slot), "")
	if err != nil {
		return nil, fmt.Errorf("list groups of slot %d: %w", slot, err)
	}
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.SK
	}
	return ids, nil
}

// LoadGroup reads a group's state and offsets. A group that is not there has
// an empty Value.
func (c *Catalog) LoadGroup(ctx context.Context, id string) (GroupState, map[kafka.TopicPartition]GroupOffset, error) {
	g := GroupState{ID: id, item: meta.Item{Key: meta.Key{PK: groupPK(id), SK: "state"}}}
	offsets := make(map[kafka.TopicPartition]GroupOffset)
	items, err := c.all(ctx, groupPK(id), "")
	if err != nil {
		return g, nil, fmt.Errorf("load group %q: %w", id, err)
	}
	for _, it := range items {
		switch {
		case it.SK == "state":
			g.item, g.exists = it, true
		case strings.HasPrefix(it.SK, "part/"):
			g.chunks = append(g.chunks, it)
		case strings.HasPrefix(it.SK, "offsets/"):
			tp, run, err := runOf(it)
			if err != nil {
				return g, nil, fmt.Errorf("load group %q: %w", id, err)
			}
			for p, o := range run {
				offsets[kafka.TopicPartition{Topic: tp.Topic, Partition: p}] = o
			}
		}
	}
	if g.exists {
		f := read(g.item)
		g.Value = slices.Clone(f.bytes("value"))
		for _, ch := range g.chunks {
			cf := read(ch)
			g.Value = append(g.Value, cf.bytes("value")...)
			f.err = errors.Join(f.err, cf.err)
		}
		if f.err != nil {
			return g, nil, fmt.Errorf("load group %q: %w", id, f.err)
		}
	}
	return g, offsets, nil
}

// SaveGroup writes a group's state, on condition that slot is owned as it
// says and the state is as g was read. ErrFenced: it is not.
func (c *Catalog) SaveGroup(ctx context.Context, slot Slot, g GroupState) (GroupState, error) {
	parts := chunk(g.Value)
	if len(parts) > maxChunks {
		return g, fmt.Errorf("save group %q: %d bytes: %w", g.ID, len(g.Value), ErrTooLarge)
	}
	ops := []meta.Op{meta.Put(g.item, meta.Attrs{"v": format, "value": parts[0]})}
	for i, p := range parts[1:] {
		old := meta.Item{Key: meta.Key{PK: groupPK(g.ID), SK: fmt.Sprintf("part/%03d", i)}}
		if i < len(g.chunks) {
			old = g.chunks[i]
		}
		ops = append(ops, meta.Put(old, meta.Attrs{"v": format, "value": p}))
	}
	for i := len(parts) - 1; i < len(g.chunks); i++ {
		ops = append(ops, meta.Delete(g.chunks[i]))
	}
	if !g.exists {
		index := meta.Item{Key: meta.Key{PK: groupsPK(slot.Slot), SK: g.ID}}
		ops = append(ops, meta.Create(index.Key, meta.Attrs{"v": format}))
	}
	if err := c.withSlot(ctx, slot, ops); err != nil {
		return g, fmt.Errorf("save group %q: %w", g.ID, err)
	}
	return c.reread(ctx, g, len(parts)-1)
}

// withSlot commits ops and a check of the slot's owner. The slot's item
// changes with every checkpoint, so a lost race is tried again with the item of now.
func (c *Catalog) withSlot(ctx context.Context, slot Slot, ops []meta.Op) error {
	for {
		owned, err := c.slot(ctx, slot.Slot)
		if err != nil {
			return err
		}
		if owned.Owner != slot.Owner || owned.Epoch != slot.Epoch {
			return ErrFenced
		}
		err = c.commit(ctx, append(slices.Clone(ops), meta.Check(owned.item))...)
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		now, err := c.slot(ctx, slot.Slot)
		if err != nil {
			return err
		}
		if now.item.CommitID == owned.item.CommitID {
			return ErrFenced // it was not the slot that had changed
		}
	}
}

func (c *Catalog) reread(ctx context.Context, g GroupState, chunks int) (GroupState, error) {
	next := GroupState{ID: g.ID, Value: g.Value, exists: true}
	var err error
	if next.item, err = c.get(ctx, groupPK(g.ID), "state"); err != nil {
		return g, err
	}
	for i := range chunks {
		it, err := c.get(ctx, groupPK(g.ID), fmt.Sprintf("part/%03d", i))
		if err != nil {
			return g, err
		}
		next.chunks = append(next.chunks, it)
	}
	return next, nil
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
// group's state is as g was read or saved. Over 90 items it is split into
// several commits. ErrFenced: the state has changed.
func (c *Catalog) CommitOffsets(ctx context.Context, g GroupState, set map[kafka.TopicPartition]GroupOffset, del []kafka.TopicPartition) error {
	runs := make(map[string]map[int32]*GroupOffset)
	for tp, o := range set {
		addRun(runs, tp, &o)
	}
	for _, tp := range del {
		addRun(runs, tp, nil)
	}
	keys := slices.Sorted(maps.Keys(runs))
	for part := range slices.Chunk(keys, maxRuns) {
		if err := c.commitRuns(ctx, g, part, runs); err != nil {
			return fmt.Errorf("commit offsets of group %q: %w", g.ID, err)
		}
	}
	return nil
}

func addRun(runs map[string]map[int32]*GroupOffset, tp kafka.TopicPartition, o *GroupOffset) {
	sk := fmt.Sprintf("offsets/%s/%06d", tp.Topic.Hex(), tp.Partition/runLen)
	if runs[sk] == nil {
		runs[sk] = make(map[int32]*GroupOffset)
	}
	runs[sk][tp.Partition] = o
}

func (c *Catalog) commitRuns(ctx context.Context, g GroupState, keys []string, runs map[string]map[int32]*GroupOffset) error {
	ops := []meta.Op{meta.Check(g.item)}
	for _, sk := range keys {
		item, err := c.get(ctx, groupPK(g.ID), sk)
		if err != nil {
			return err
		}
		run := map[int32]GroupOffset{}
		if item.Version > 0 {
			if _, run, err = runOf(item); err != nil {
				return err
			}
		}
		for p, o := range runs[sk] {
			if o == nil {
				delete(run, p)
				continue
			}
			run[p] = *o
		}
		switch {
		case len(run) > 0:
			ops = append(ops, meta.Put(item, runAttrs(sk, run)))
		case item.Version > 0:
			ops = append(ops, meta.Delete(item))
		}
	}
	err := c.commit(ctx, ops...)
	if errors.Is(err, meta.ErrConflict) {
		return ErrFenced
	}
	return err
}

func runAttrs(sk string, run map[int32]GroupOffset) meta.Attrs {
	named := make(map[string]GroupOffset, len(run))
	for p, o := range run {
		named[strconv.Itoa(int(p))] = o
	}
	return meta.Attrs{"v": format, "topic": strings.Split(sk, "/")[1], "offsets": jsonText(named)}
}

func runOf(item meta.Item) (kafka.TopicPartition, map[int32]GroupOffset, error) {
	f := read(item)
	named := map[string]GroupOffset{}
	id, err := kafka.ParseTopicID(f.text("topic"))
	f.json("offsets", &named)
	if err = errors.Join(f.err, err); err != nil {
		return kafka.TopicPartition{}, nil, err
	}
	run := make(map[int32]GroupOffset, len(named))
	for s, o := range named {
		p, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return kafka.TopicPartition{}, nil, fmt.Errorf("item %v: %w", item.Key, err)
		}
		run[int32(p)] = o
	}
	return kafka.TopicPartition{Topic: id}, run, nil
}

// DeleteGroup removes a group with its offsets, on condition that its state is
// as g was read: the offsets first, then the state, so that a crash leaves a
// group that can be deleted again.
func (c *Catalog) DeleteGroup(ctx context.Context, slot Slot, g GroupState) error {
	if !g.exists {
		return ErrNotFound
	}
	items, err := c.all(ctx, groupPK(g.ID), "offsets/")
	if err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, err)
	}
	for part := range slices.Chunk(items, maxRuns) { // a group without members commits no more
		ops := []meta.Op{meta.Check(g.item)}
		for _, it := range part {
			ops = append(ops, meta.Delete(it))
		}
		if err := c.commit(ctx, ops...); err != nil {
			return fmt.Errorf("delete group %q: %w", g.ID, fencedIf(err))
		}
	}
	ops := []meta.Op{meta.Delete(g.item)}
	for _, ch := range g.chunks {
		ops = append(ops, meta.Delete(ch))
	}
	index, err := c.get(ctx, groupsPK(slot.Slot), g.ID)
	if err != nil {
		return err
	}
	if index.Version > 0 {
		ops = append(ops, meta.Delete(index))
	}
	if err := c.commit(ctx, ops...); err != nil {
		return fmt.Errorf("delete group %q: %w", g.ID, fencedIf(err))
	}
	return nil
}

func fencedIf(err error) error {
	if errors.Is(err, meta.ErrConflict) {
		return ErrFenced
	}
	return err
}
