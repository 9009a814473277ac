package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// EpochStart is an entry of a partition's leader-epoch history (KIP-101).
type EpochStart struct {
	Epoch kafka.LeaderEpoch `json:"e"`
	Start kafka.Offset      `json:"s"`
}

// Segment is a sealed run of a partition's log.
type Segment struct {
	TP             kafka.TopicPartition
	Base, End      kafka.Offset // End is exclusive
	Key            string       // object key; "": an empty placeholder that keeps the log's end
	Size           int64        // bytes of the object
	RawSize        int64        // bytes of the batches
	Records        int64
	FirstTimestamp int64 // ms
	MaxTimestamp   int64
	FooterLen      int64
	CreatedMs      int64
	Epochs         []EpochStart
	Cleaned        kafka.Offset // up to where the log was compacted when this entry was written; 0: never
	item           meta.Item
}

func logPK(tp kafka.TopicPartition) string {
	return fmt.Sprintf("log/%s/%010d", tp.Topic.Hex(), tp.Partition)
}

func segSK(base kafka.Offset) string { return fmt.Sprintf("seg/%020d", base) }

func segmentOf(tp kafka.TopicPartition, item meta.Item) (Segment, error) {
	f := read(item)
	s := Segment{
		TP: tp, Base: kafka.Offset(f.int("base")), End: kafka.Offset(f.int("end")), Key: f.text("key"),
		Size: f.int("size"), RawSize: f.int("raw_size"), Records: f.int("records"),
		FirstTimestamp: f.int("first_ts"), MaxTimestamp: f.int("max_ts"), FooterLen: f.int("footer_len"), CreatedMs: f.int("created"), item: bare(item),
	}
	f.json("epochs", &s.Epochs)
	if _, ok := item.Attrs["cleaned"]; ok {
		s.Cleaned = kafka.Offset(f.int("cleaned"))
	}
	return s, f.err
}

func (s Segment) attrs() meta.Attrs {
	a := meta.Attrs{
		"v": format, "base": int64(s.Base), "end": int64(s.End), "key": s.Key, "size": s.Size, "raw_size": s.RawSize, "records": s.Records,
		"first_ts": s.FirstTimestamp, "max_ts": s.MaxTimestamp, "footer_len": s.FooterLen, "created": s.CreatedMs, "epochs": jsonText(s.Epochs),
	}
	if s.Cleaned > 0 {
		a["cleaned"] = int64(s.Cleaned)
	}
	return a
}

func (s Segment) sameAs(o Segment) bool {
	return s.Base == o.Base && s.End == o.End && s.Key == o.Key
}

// AddSegment registers a sealed segment behind the newest one, on condition
// that slot is still owned at its epoch, the topic is still there, and the
// newest one is still as it was. Without that last check a repeat of an unknown commit
// that lands late would bring an entry back which a job has merged into the
// one before. ErrFenced, ErrNotFound (the topic), ErrExists (another segment
// holds its first offset: one of the caller's, as a job may have replaced it).
func (c *Catalog) AddSegment(ctx context.Context, slot Slot, topic Topic, s Segment) error {
	key := meta.Key{PK: logPK(s.TP), SK: segSK(s.Base)}
	err := again(ctx, func() error {
		owned, err := c.slot(ctx, slot.Slot)
		if err != nil {
			return err
		}
		if owned.Owner != slot.Owner || owned.Epoch != slot.Epoch {
			return ErrFenced
		}
		t, err := c.topic(ctx, topic.Name)
		if err != nil {
			return err
		}
		if t.ID != s.TP.Topic {
			return ErrNotFound
		}
		ops := []meta.Op{meta.Check(owned.item), meta.Check(t.item), meta.Create(key, s.attrs())}
		newest, ok, err := c.NewestSegment(ctx, s.TP)
		switch {
		case err != nil:
			return err
		case ok && newest.sameAs(s):
			return nil // this very segment: an earlier attempt was applied
		case ok && newest.End > s.Base:
			return ErrExists
		case ok:
			ops = append(ops, meta.Check(newest.item))
		}
		_, err = c.commit(ctx, ops...)
		return err
	})
	if err != nil {
		return fmt.Errorf("add segment %s at %d: %w", s.TP, s.Base, err)
	}
	return nil
}

// Segments returns up to limit (0: all) segments of a partition that hold offsets of
// from or later, in order. A job may replace entries while they are read, and of two that it joins the
// reader may miss both: entries lie end to end, so what has a gap is read until it has the same one twice.
func (c *Catalog) Segments(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int) ([]Segment, error) {
	r, err := c.readSegments(ctx, tp, from, limit)
	for err == nil && r.gap {
		before := r
		if r, err = c.readSegments(ctx, tp, from, limit); err == nil && r.sameAs(before) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read segments of %s: %w", tp, err)
	}
	return r.segs, nil
}

// reading is one attempt to read segments.
type reading struct {
	first Segment // the last one that begins at the offset asked for or before; no item: there is none
	segs  []Segment
	gap   bool // somewhere, or first was no longer where it had been
}

func (r reading) sameAs(o reading) bool {
	return r.first.item.CommitID == o.first.item.CommitID && slices.EqualFunc(r.segs, o.segs, Segment.sameAs)
}

func (c *Catalog) readSegments(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int) (reading, error) {
	var r reading
	in, next := meta.Range{Prefix: "seg/"}, kafka.Offset(-1) // where the next one must begin; -1: anywhere
	if limit > 0 {
		in.Limit = limit + 1
	}
	if from > 0 {
		first, ok, err := c.segmentBefore(ctx, tp, from)
		if err != nil {
			return r, err
		}
		if ok { // it is read again, with those behind it
			r.first, next, in.After = first, first.Base, justBelow(first.item.SK)
		}
	}
	last := r.first.item
	for more := true; more && (limit <= 0 || len(r.segs) < limit); {
		var items []meta.Item
		var err error
		if items, more, err = c.store.Query(ctx, logPK(tp), in); err != nil {
			return r, err
		}
		for _, it := range items {
			s, err := segmentOf(tp, it)
			if err != nil {
				return r, err
			}
			r.gap = r.gap || next >= 0 && s.Base != next
			if next, in.After = s.End, it.SK; s.End > from {
				r.segs = append(r.segs, s)
			}
			last = s.item
		}
	}
	if last.Version > 0 && (limit <= 0 || len(r.segs) < limit) { // none follows, if it has not grown meanwhile
		stands, err := c.stands(ctx, last)
		if err != nil {
			return r, err
		}
		r.gap = r.gap || !stands
	}
	if limit > 0 && len(r.segs) > limit {
		r.segs = r.segs[:limit]
	}
	return r, nil
}

// justBelow returns what no sort key of the same length lies between it and sk.
func justBelow(sk string) string {
	i := len(sk) - 1
	return sk[:i] + string(sk[i]-1)
}

// segmentBefore returns the last segment that begins at off or before.
func (c *Catalog) segmentBefore(ctx context.Context, tp kafka.TopicPartition, off kafka.Offset) (Segment, bool, error) {
	r := meta.Range{Prefix: "seg/", Reverse: true, Limit: 1}
	if off < 1<<62 {
		r.After = segSK(max(off, 0) + 1)
	}
	items, _, err := c.store.Query(ctx, logPK(tp), r)
	if err != nil {
		return Segment{}, false, err
	}
	if len(items) == 0 {
		return Segment{}, false, nil
	}
	s, err := segmentOf(tp, items[0])
	return s, err == nil, err
}

// NewestSegment returns a partition's last segment.
func (c *Catalog) NewestSegment(ctx context.Context, tp kafka.TopicPartition) (Segment, bool, error) {
	s, ok, err := c.segmentBefore(ctx, tp, 1<<62)
	if err != nil {
		return Segment{}, false, fmt.Errorf("read newest segment of %s: %w", tp, err)
	}
	return s, ok, nil
}

// Swap is a replacement of some of a partition's entries by others.
type Swap struct {
	Lease *Lease    // of the job that does it; nil: none is checked
	Topic *Topic    // is checked to be there; nil: it was deleted
	Old   []Segment // as they were read; at most 40
	New   []Segment // in their place; at most 40
	Due   time.Time // when the objects that nothing names any more may be deleted; zero: they are not noted
}

// SwapSegments replaces entries of one partition in one commit, which notes the
// objects that nothing names any more. ErrFenced: the lease is somebody else's, or an
// entry has gone or changed since it was read; nothing was written. ErrNotFound:
// the topic.
func (c *Catalog) SwapSegments(ctx context.Context, s Swap) error {
	if len(s.Old) == 0 {
		return nil
	}
	tp := s.Old[0].TP
	next := make(map[kafka.Offset]Segment, len(s.New))
	for _, n := range s.New {
		next[n.Base] = n
	}
	ops := s.Lease.checks()
	for _, old := range s.Old {
		if n, ok := next[old.Base]; ok {
			ops = append(ops, meta.Replace(old.item, n.attrs()))
			delete(next, old.Base)
			continue
		}
		ops = append(ops, meta.Delete(old.item))
	}
	for _, n := range s.New {
		if _, ok := next[n.Base]; ok {
			ops = append(ops, meta.Create(meta.Key{PK: logPK(tp), SK: segSK(n.Base)}, n.attrs()))
		}
	}
	ops = append(ops, dead(s.Old, s.New, s.Due)...)
	if err := c.withTopic(ctx, s.Topic, ops); err != nil {
		return fmt.Errorf("swap %d segments of %s: %w", len(s.Old), tp, err)
	}
	return nil
}

// withTopic commits ops and a check that the topic (nil: none) is there. Its
// item changes with its settings: then it is tried again with the item of now.
func (c *Catalog) withTopic(ctx context.Context, topic *Topic, ops []meta.Op) error {
	for checked := topic; ; {
		all := ops
		if checked != nil {
			all = append([]meta.Op{meta.Check(checked.item)}, ops...)
		}
		_, err := c.commit(ctx, all...)
		if !errors.Is(err, meta.ErrConflict) || checked == nil {
			return fencedIf(err)
		}
		now, err := c.topic(ctx, topic.Name)
		if err != nil {
			return err
		}
		if now.ID != topic.ID {
			return ErrNotFound
		}
		if now.item.CommitID == checked.item.CommitID {
			return ErrFenced // it was not the topic that had changed
		}
		checked = now
	}
}
