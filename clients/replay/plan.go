package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
)

const (
	segmentPage = 64 // segment entries read at once
	resolves    = 4  // times that what is missing is looked up anew
)

// chunk is a run of a partition's offsets and where it lies: in consecutive
// frames of a sealed segment, or in slices of the tail.
type chunk struct {
	from, to kafka.Offset // what is to be delivered of it
	segment  string       // object key; "": it lies in refs
	frames   []bundle.Frame
	refs     []bundle.Ref
	bytes    int64 // of its batches
	aborted  []bundle.AbortedTxn
	seen     int // the look at the tail that refs are from
}

// planner plans the chunks of one partition.
type planner struct {
	r      *Replay
	p      *partition
	target int64 // bytes of a chunk
	emit   func(chunk) error

	given kafka.Offset // up to where chunks were emitted
}

// plan emits the chunks of [from, to), in order, which lies below the end that
// the partition had. The last one ends at to, also where no records are left before it.
//
//	[ segment ][ segment ][ segment ][ ref ][ ref ]…
//	     from ▲   catalogue          │ tail  ▲ to
//
// While it works, the tail's beginning becomes segments, and retention removes
// others: what neither catalogue nor tail has is looked up anew.
func (w *planner) plan(ctx context.Context, from, to kafka.Offset) error {
	next, misses := from, 0
	w.given = from
	for next < to {
		begin, tail := next, w.r.tails.now()
		full, err := w.sealed(ctx, &next, to)
		if err == nil && !full {
			err = w.tail(tail, &next, to)
		}
		if next > begin {
			misses = 0
		}
		switch {
		case err != nil && !errors.Is(err, errGone) && !errors.Is(err, cold.ErrGone):
			return err
		case err == nil && (full || next >= to):
			continue
		case misses == resolves:
			return fmt.Errorf("%w: neither a segment nor the tail has offset %d (%w)", ErrLost, next, cmp.Or(err, errGone))
		}
		misses++
		w.r.src.cold.Forget(w.p.tp)
		if err := w.pass(ctx, &next, to); err != nil {
			return err
		}
		if _, err := w.r.tails.renew(ctx, tail.number); err != nil {
			return err
		}
	}
	if w.given < to {
		return w.give(chunk{from: w.given, to: to})
	}
	return nil
}

func (w *planner) give(c chunk) error {
	w.given = c.to
	return w.emit(c)
}

// sealed emits what a page of segments has from next on, and moves next. full
// means that there may be more.
func (w *planner) sealed(ctx context.Context, next *kafka.Offset, to kafka.Offset) (full bool, err error) {
	segs, err := w.segments(ctx, *next)
	if err != nil {
		return false, err
	}
	for _, seg := range segs {
		if *next >= to {
			return true, nil
		}
		if err := w.segment(ctx, seg, next, to); err != nil {
			return false, err
		}
	}
	return len(segs) == segmentPage, nil
}

func (w *planner) segments(ctx context.Context, next kafka.Offset) (segs []catalog.Segment, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		segs, err = w.r.src.cat.Segments(ctx, w.p.tp, next, segmentPage)
		return err
	})
	return segs, err
}

// segment emits what a segment has of [next, to) and moves next behind it.
func (w *planner) segment(ctx context.Context, seg catalog.Segment, next *kafka.Offset, to kafka.Offset) error {
	first := seg.Base // with records that are there
	if seg.Key == "" {
		first = seg.End
	}
	if *next < first {
		if err := w.pass(ctx, next, min(first, to)); err != nil {
			return err
		}
		switch {
		case *next >= min(first, to):
		case seg.Key == "" && *next >= seg.Base: // compaction has left nothing of it
			*next = min(first, to)
		default:
			return fmt.Errorf("%w: no segment has offset %d, the next one begins at %d", ErrLost, *next, seg.Base)
		}
	}
	end := min(seg.End, to)
	if *next >= end {
		return nil
	}
	footer, err := w.r.src.cold.Footer(ctx, seg)
	if err != nil {
		return err
	}
	aborted, err := w.aborted(ctx, *next, end)
	if err != nil {
		return err
	}
	frames := footer.Frames
	i := max(0, sort.Search(len(frames), func(i int) bool { return frames[i].BaseOffset > *next })-1)
	for i < len(frames) && frames[i].BaseOffset < end {
		j, bytes := i, int64(0)
		for j < len(frames) && frames[j].BaseOffset < end && (j == i || bytes+int64(frames[j].RawLen) <= w.target) {
			bytes += int64(frames[j].RawLen)
			j++
		}
		c := chunk{from: *next, to: end, segment: seg.Key, frames: frames[i:j], bytes: bytes, aborted: aborted}
		if j < len(frames) {
			c.to = min(end, frames[j].BaseOffset)
		}
		if err := w.give(c); err != nil {
			return err
		}
		*next, i = c.to, j
	}
	*next = end
	return nil
}

// tail emits what the tail has of [next, to), if it has next, and moves next.
func (w *planner) tail(s *snapshot, next *kafka.Offset, to kafka.Offset) error {
	t := s.of(w.p.tp)
	hot := t.Hot
	i := sort.Search(len(hot), func(i int) bool { return hot[i].Last >= *next })
	if i == len(hot) || hot[i].Base > *next {
		return nil
	}
	for i < len(hot) && hot[i].Base < to {
		c := chunk{from: *next, seen: s.number}
		if w.r.o.Committed {
			c.aborted = t.State.Aborted
		}
		for ; i < len(hot) && hot[i].Base < to && (len(c.refs) == 0 || c.bytes+hot[i].Len <= w.target); i++ {
			c.refs, c.bytes = appendRef(c.refs, hot[i]), c.bytes+hot[i].Len
			c.to = min(to, hot[i].Last+1)
		}
		if err := w.give(c); err != nil {
			return err
		}
		*next = c.to
	}
	return nil
}

// appendRef appends a slice; one that lies right behind the last becomes part
// of it, as those of a checkpoint do.
func appendRef(refs []bundle.Ref, r bundle.Ref) []bundle.Ref {
	if n := len(refs); n > 0 && refs[n-1].Key == r.Key && refs[n-1].Pos+refs[n-1].Len == r.Pos {
		last := &refs[n-1]
		last.Len, last.Last, last.MaxTimestamp = last.Len+r.Len, r.Last, max(last.MaxTimestamp, r.MaxTimestamp)
		return refs
	}
	return append(refs, r)
}

// aborted returns the aborted transactions that touch [from, to): those that
// end in sealed segments and those that end in the tail. Where a marker was sealed
// since the last look it is in both, or was in the tail then.
func (w *planner) aborted(ctx context.Context, from, to kafka.Offset) ([]bundle.AbortedTxn, error) {
	if !w.r.o.Committed {
		return nil, nil
	}
	all := w.r.tails.now().of(w.p.tp).State.Aborted
	sealed, err := w.r.src.cold.Aborted(ctx, w.p.tp, from, to)
	return append(sealed, all...), err
}

// pass moves next to the log's start, if that has passed it: those records
// were removed.
func (w *planner) pass(ctx context.Context, next *kafka.Offset, to kafka.Offset) error {
	start, err := w.r.logStart(ctx, w.p)
	if start = min(start, to); err != nil || start <= *next {
		return err
	}
	if w.p.exact {
		return fmt.Errorf("%w: offsets %d to %d were removed meanwhile", ErrOutOfRange, *next, start-1)
	}
	w.r.count.removed.Add(int64(start - *next))
	*next = start
	return nil
}
