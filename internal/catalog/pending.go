package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// PendingOffsets are the offsets that a producer's transaction has for a group:
// they are the group's when the transaction has been committed. They lie in an item of the
// group for each producer. It stays when the transaction has ended, with nothing in it, until
// the group's state is written next: so a delayed write of it finds another version there, and fails.
type PendingOffsets struct {
	Number  int32 // of the transaction
	Offsets map[kafka.TopicPartition]GroupOffset
}

const (
	txnPrefix = "txn/"
	maxGone   = 50 // items of producers that one write of the state removes
)

func pendingSK(producerID int64) string { return fmt.Sprintf(txnPrefix+"%020d", producerID) }

// pendingText is the attribute "offsets": by topic id in hex and partition.
type pendingText map[string]map[int32]GroupOffset

func (p PendingOffsets) attrs() meta.Attrs {
	text := make(pendingText)
	for tp, o := range p.Offsets {
		topic := tp.Topic.Hex()
		if text[topic] == nil {
			text[topic] = make(map[int32]GroupOffset)
		}
		text[topic][tp.Partition] = o
	}
	return meta.Attrs{"v": format, "number": int64(p.Number), "offsets": jsonText(text)}
}

// pendingOf reads an item: whose it is, and what it holds.
func pendingOf(item meta.Item) (producerID int64, p PendingOffsets, err error) {
	f := read(item)
	text := pendingText{}
	p = PendingOffsets{Number: int32(f.int("number")), Offsets: make(map[kafka.TopicPartition]GroupOffset)}
	f.json("offsets", &text)
	producerID, err = strconv.ParseInt(strings.TrimPrefix(item.SK, txnPrefix), 10, 64)
	if err = errors.Join(f.err, err); err != nil {
		return 0, p, err
	}
	for hex, parts := range text {
		topic, err := kafka.ParseTopicID(hex)
		if err != nil {
			return 0, p, fmt.Errorf("item %v: %w", item.Key, err)
		}
		for n, o := range parts {
			p.Offsets[kafka.TopicPartition{Topic: topic, Partition: n}] = o
		}
	}
	return producerID, p, nil
}

// fillPending reads the producers' items among a group's.
func (g *GroupState) fillPending(items []meta.Item) error {
	g.Pending, g.producers = make(map[int64]PendingOffsets), make(map[int64]meta.Item)
	for _, it := range items {
		if !strings.HasPrefix(it.SK, txnPrefix) {
			continue
		}
		id, p, err := pendingOf(it)
		if err != nil {
			return err
		}
		g.producers[id] = bare(it)
		if len(p.Offsets) > 0 {
			g.Pending[id] = p
		}
	}
	return nil
}

// PutPending writes what a producer's transaction has for a group, on condition
// that the group's state is as g was read or saved; no offsets mean that it has ended. ErrFenced:
// the state has changed. ErrTooLarge: the offsets do not fit an item. Calls for one group
// come one after the other.
func (c *Catalog) PutPending(ctx context.Context, g GroupState, producerID int64, p PendingOffsets) error {
	old, ok := g.producers[producerID]
	if !ok {
		if len(p.Offsets) == 0 {
			return nil // it never was there
		}
		old = meta.Item{Key: meta.Key{PK: groupPK(g.ID), SK: pendingSK(producerID)}}
	}
	put := meta.Put(old, p.attrs())
	id, err := c.commit(ctx, meta.Check(g.item), put)
	if err != nil {
		return fmt.Errorf("offsets of producer %d's transaction for group %q: %w", producerID, g.ID, fencedIf(err))
	}
	g.producers[producerID] = written(put, id)
	if delete(g.Pending, producerID); len(p.Offsets) > 0 {
		g.Pending[producerID] = p
	}
	return nil
}

// gone returns the operations that remove the items of producers whose
// transactions have ended, and what is left of them.
func (g GroupState) gone() (ops []meta.Op, left map[int64]meta.Item) {
	left = make(map[int64]meta.Item)
	ids := make([]int64, 0, len(g.producers))
	for id := range g.producers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if _, pending := g.Pending[id]; pending || len(ops) == maxGone {
			left[id] = g.producers[id]
			continue
		}
		ops = append(ops, meta.Delete(g.producers[id]))
	}
	return ops, left
}
