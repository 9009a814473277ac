package compaction

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/upload"
)

// pass is one pass over a log, up to where its keys are known. It is used by
// one goroutine.
type pass struct {
	tp      kafka.TopicPartition
	segs    []catalog.Segment // those of Log
	rules   rules
	src     source
	uploads upload.Options
	limit   int64 // segment.bytes
	// commit replaces entries by one.
	commit func(ctx context.Context, old []catalog.Segment, next catalog.Segment) error

	txns    *txns
	endings map[int]ending // by index in segs
	stats   PassStats
}

// PassStats are what a pass did.
type PassStats struct {
	Records, Left int64 // read, and left of them
	Read, Written int64 // bytes of objects
	Replaced      int   // entries
	Merged        int   // of them, small ones
}

// ending is what a footer says about transactions.
type ending struct {
	stable  kafka.Offset
	aborted []bundle.AbortedTxn
}

// run cleans what Plan has found and returns up to where.
func (p *pass) run(ctx context.Context, d Decision) (kafka.Offset, error) {
	if err := p.gather(ctx, d); err != nil {
		return 0, fmt.Errorf("gather keys of %s from offset %d: %w", p.tp, d.From, err)
	}
	p.txns, p.endings = newTxns(), make(map[int]ending)
	i := 0
	for _, g := range Groups(p.segs, p.rules.end, p.limit) {
		if err := p.group(ctx, i, g); err != nil {
			return 0, fmt.Errorf("clean %s from offset %d: %w", p.tp, g[0].Base, err)
		}
		i += len(g)
	}
	return p.rules.end, nil
}

// gatherBytes is how many bytes of batches one pass gathers keys of at most, so that
// it commits something before a function's time is over.
const gatherBytes = 8 << 30

// gather notes the last offset of each key of the dirty range, up to its end or
// until there is no room, and where that was.
func (p *pass) gather(ctx context.Context, d Decision) error {
	p.txns, p.endings = newTxns(), make(map[int]ending)
	p.rules.end = d.To
	var f record.Filter
	var bytes int64
	for i, seg := range p.segs {
		if seg.End <= d.From || seg.Base >= p.rules.end || seg.Key == "" {
			continue
		}
		if err := p.learn(ctx, i, d.From, p.txns); err != nil {
			return err
		}
		err := p.src.batches(ctx, seg, d.From, func(b []byte) error { return p.note(b, d.From, &f) })
		if err != nil {
			return err
		}
		if bytes += seg.RawSize; bytes >= gatherBytes {
			p.rules.end = min(p.rules.end, seg.End)
		}
	}
	return nil
}

// note notes the keys of a batch.
func (p *pass) note(b []byte, from kafka.Offset, f *record.Filter) error {
	h, err := record.ParseHeader(b)
	if err != nil || h.BaseOffset >= p.rules.end {
		return err
	}
	if h.Control() {
		kind := int16(-1)
		if h.NumRecords > 0 {
			kind, _, err = record.MarkerType(b)
		}
		p.txns.marker(h, kind)
		return err
	}
	if p.txns.data(h) || h.LastOffset() < from {
		return nil
	}
	_, err = f.Select(b, record.MaxDecompressed, func(r *record.Record) bool {
		off := h.OffsetOf(r)
		if off >= from && off < p.rules.end && r.Key != nil && !p.rules.keys.put(r.Key, off) {
			p.rules.end = off
		}
		return false
	})
	return err
}

// learn tells t of the aborted transactions that have records in an entry and
// end at from or behind it: where batches are read from there on, the markers of
// others are not seen. One is listed where its marker lies; what ends behind a
// last stable offset began behind it.
func (p *pass) learn(ctx context.Context, i int, from kafka.Offset, t *txns) error {
	seg := p.segs[i]
	for j := range p.endings {
		if j < i {
			delete(p.endings, j)
		}
	}
	for j := i; j < len(p.segs); j++ {
		if p.segs[j].Key == "" {
			continue
		}
		e, ok := p.endings[j]
		if !ok {
			g, err := p.src.footer(ctx, p.segs[j])
			if err != nil {
				return err
			}
			e = ending{stable: g.State.LastStable, aborted: g.Aborted}
			p.endings[j] = e
		}
		t.add(slices.DeleteFunc(slices.Clone(e.aborted), func(a bundle.AbortedTxn) bool {
			return a.FirstOffset >= seg.End || a.LastOffset < max(seg.Base, from)
		}))
		if e.stable >= seg.End {
			break
		}
	}
	return nil
}

// errStop ends a walk over batches early: it has seen enough.
var errStop = errors.New("stop")

// group makes one entry of a group, whose first entry is the i-th.
func (p *pass) group(ctx context.Context, i int, g []catalog.Segment) error {
	next := merged(g, p.rules.end)
	objects := slices.DeleteFunc(slices.Clone(g), func(s catalog.Segment) bool { return s.Key == "" })
	switch len(objects) {
	case 0:
		if len(g) == 1 {
			return nil
		}
	case 1: // it may be as it should be
		c := p.cleaner()
		err := p.clean(ctx, i, g, c, func([]byte) error { return nil }, true)
		if err == nil {
			p.txns = c.txns
			p.count(c)
			only := objects[0]
			if len(g) == 1 && only.Cleaned >= next.Cleaned {
				return nil
			}
			next = withObject(next, only)
			return p.replace(ctx, g, next)
		}
		if !errors.Is(err, errStop) {
			return err
		}
	}
	if len(objects) > 0 {
		var err error
		if next, err = p.write(ctx, i, g, next); err != nil {
			return err
		}
	}
	return p.replace(ctx, g, next)
}

func (p *pass) replace(ctx context.Context, g []catalog.Segment, next catalog.Segment) error {
	if err := p.commit(ctx, g, next); err != nil {
		return err
	}
	p.stats.Replaced += len(g)
	return nil
}

// merged returns the entry that takes the place of a group, without an object.
func merged(g []catalog.Segment, end kafka.Offset) catalog.Segment {
	next := catalog.Segment{TP: g[0].TP, Base: g[0].Base, End: g[len(g)-1].End, FirstTimestamp: -1, MaxTimestamp: -1}
	next.Cleaned = min(end, next.End)
	for _, s := range g {
		next.CreatedMs = max(next.CreatedMs, s.CreatedMs)
		for _, e := range s.Epochs {
			if n := len(next.Epochs); n == 0 || next.Epochs[n-1].Epoch < e.Epoch {
				next.Epochs = append(next.Epochs, e)
			}
		}
	}
	return next
}

// withObject returns an entry with the object of another.
func withObject(next, s catalog.Segment) catalog.Segment {
	next.Key, next.Size, next.RawSize, next.FooterLen, next.Records = s.Key, s.Size, s.RawSize, s.FooterLen, s.Records
	next.FirstTimestamp, next.MaxTimestamp = s.FirstTimestamp, s.MaxTimestamp
	return next
}

func (p *pass) cleaner() *cleaner { return &cleaner{rules: p.rules, txns: p.txns.clone()} }

func (p *pass) count(c *cleaner) {
	p.stats.Records += c.count.records
	p.stats.Left += c.count.leftRecords
}

// clean gives what stays of a group to sink. With try it ends with errStop at
// the first batch that does not stay as it is.
func (p *pass) clean(ctx context.Context, i int, g []catalog.Segment, c *cleaner, sink func(b []byte) error, try bool) error {
	for j, seg := range g {
		if seg.Key == "" {
			continue
		}
		if err := p.learn(ctx, i+j, seg.Base, c.txns); err != nil {
			return err
		}
		err := p.src.batches(ctx, seg, seg.Base, func(b []byte) error {
			out, err := c.batch(b)
			switch {
			case err != nil:
				return err
			case try && c.count.changed:
				return errStop
			case out == nil:
				return nil
			}
			return sink(out)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes what stays of a group into one object and returns next with it;
// next alone where nothing stays.
func (p *pass) write(ctx context.Context, i int, g []catalog.Segment, next catalog.Segment) (catalog.Segment, error) {
	st, err := p.src.footer(ctx, lastObject(g))
	if err != nil {
		return next, err
	}
	var c *cleaner
	nothing := false
	next, err = p.put(ctx, next, func(ctx context.Context, sw *bundle.SegmentWriter) (info bundle.SegmentInfo, err error) {
		c, nothing = p.cleaner(), false
		if err := p.clean(ctx, i, g, c, add(sw), false); err != nil {
			return info, err
		}
		if nothing = c.count.leftBatches == 0; nothing {
			return info, errStop
		}
		info, err = sw.Close(st.State, c.aborted)
		if err == nil && info.Records != c.count.leftRecords {
			err = wrong("%d records of %d that stay", info.Records, c.count.leftRecords)
		}
		return info, err
	})
	if err != nil && !nothing {
		return next, err
	}
	p.txns = c.txns
	p.count(c)
	return next, nil
}

// put writes an object with what fill gives it, reads it back, and returns
// next with it.
func (p *pass) put(ctx context.Context, next catalog.Segment,
	fill func(ctx context.Context, sw *bundle.SegmentWriter) (bundle.SegmentInfo, error)) (catalog.Segment, error) {
	var info bundle.SegmentInfo
	key, err := p.uploads.Put(ctx, func(n int64) string { return upload.SegmentKey(next.TP, next.Base, p.uploads.Origin, n) },
		func(ctx context.Context, origin bundle.Origin, w io.Writer) error {
			sw, err := bundle.NewSegmentWriter(w, origin, p.uploads.Level)
			if err == nil {
				info, err = fill(ctx, sw)
			}
			return err
		})
	if err != nil {
		return next, err
	}
	next = withObject(next, catalog.Segment{
		Key: key, Size: info.Size, RawSize: info.RawSize, FooterLen: info.FooterLen, Records: info.Records,
		FirstTimestamp: info.FirstTimestamp, MaxTimestamp: info.MaxTimestamp,
	})
	p.stats.Written += info.Size
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	return next, cold.VerifySegment(ctx, p.uploads.Store, next)
}

func lastObject(g []catalog.Segment) catalog.Segment {
	for _, s := range slices.Backward(g) {
		if s.Key != "" {
			return s
		}
	}
	panic("a group without an object")
}
