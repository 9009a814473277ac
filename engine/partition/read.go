package partition

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// maxReadBytes bounds what one Read returns, whatever it was asked for.
const maxReadBytes = 32 << 20

// resolves is how often a read looks for its bytes anew after they had gone
// from where the index said they were.
const resolves = 4

// Result is what Read found.
type Result struct {
	Bufs                                [][]byte // whole batches; valid until the arena is released
	HighWatermark, LastStable, LogStart kafka.Offset
	Next                                kafka.Offset // behind what was read; 0: nothing was
	// Aborted has the aborted transactions that touch what was read, by first
	// offset; nil for a read_uncommitted reader.
	Aborted []bundle.AbortedTxn
}

// view is what one Read sees of the durable half.
type view struct {
	Result
	from, limit kafka.Offset
	sealed      bool                // from lies below the hot index
	slices      []slice             // the hot ones from the one that holds from
	ended       []bundle.AbortedTxn // aborted transactions that end in the hot index
}

// source is where the bytes of a partition's records are read from.
type source struct {
	tp      kafka.TopicPartition
	cache   Cache
	cold    Cold
	metrics *Metrics // nil: none
}

func (l *Log) source() source { return source{l.o.TP, l.o.Cache, l.o.Cold, l.o.Metrics} }

// Read returns whole batches from the one that holds from, about limit bytes but
// at least one batch if there is one (KIP-74), up to the high watermark, or
// the last stable offset for read_committed. It reads from the sealed segments
// or from the hot index, not across the seam. Errors: kafka.OffsetOutOfRange
// below the log's start or behind its end; the code that the log was closed
// with; kafka.KafkaStorageError, wrapped, when the bytes are not where the
// catalogue says; others, and ctx's, wrapped.
func (l *Log) Read(ctx context.Context, from kafka.Offset, limit int, iso kafka.Isolation, a *objcache.Arena) (Result, error) {
	res, err := l.source().read(ctx, from, limit, iso, a, func(from kafka.Offset, max int64) (view, error) {
		v, err := l.resolve(from, max, iso)
		if err == nil {
			err = l.learnMarks(ctx, v.slices)
		}
		return v, err
	})
	for _, b := range res.Bufs {
		l.traffic.Add(int64(len(b)))
	}
	return res, err
}

// read reads what resolve finds from an offset on, and has it look anew after
// the bytes had gone from there.
func (s source) read(ctx context.Context, from kafka.Offset, limit int, iso kafka.Isolation, a *objcache.Arena, resolve func(from kafka.Offset, max int64) (view, error)) (Result, error) {
	w := bounds{from: from, max: min(max(1, int64(limit)), maxReadBytes), one: true}
	for attempt := 1; ; attempt++ {
		v, err := resolve(w.from, w.max)
		if err == nil && v.from >= v.limit || err != nil && !errors.Is(err, objstore.ErrNotFound) {
			return v.Result, err
		}
		var next kafka.Offset
		if err == nil {
			w.limit = v.limit
			next, err = s.readView(ctx, &v, w, iso, a)
		}
		switch {
		case err == nil && len(v.Bufs) == 0 && next > w.from && next < v.limit:
			w.from, attempt = next, 0 // compaction left a hole there
			continue
		case err == nil:
			s.metrics.read(v.Bufs, v.sealed)
			v.Next = next
			return v.Result, nil
		case !errors.Is(err, objstore.ErrNotFound):
			return v.Result, fmt.Errorf("read %s at offset %d: %w", s.tp, from, err)
		case attempt == resolves:
			return v.Result, fmt.Errorf("read %s at offset %d: %w: %w", s.tp, from, kafka.KafkaStorageError, err)
		}
		s.metrics.resolved()
	}
}

// readView reads within the bounds from where a view says.
func (s source) readView(ctx context.Context, v *view, w bounds, iso kafka.Isolation, a *objcache.Arena) (next kafka.Offset, err error) {
	if v.sealed {
		v.Bufs, next, err = s.readSealed(ctx, w, a)
	} else {
		v.Bufs, next, err = s.readHot(ctx, w, v.slices, a)
	}
	if err == nil && iso == kafka.ReadCommitted {
		err = s.aborted(ctx, v, next)
	}
	return next, err
}

// resolve looks up where the bytes from an offset lie.
func (l *Log) resolve(from kafka.Offset, max int64, iso kafka.Isolation) (view, error) {
	v, hw, err := l.look(from, max, iso)
	if err != nil || from <= hw {
		return v, err
	}
	if from > l.next() {
		return view{}, kafka.OffsetOutOfRange
	}
	return v, nil // appended, not yet durable
}

func (l *Log) look(from kafka.Offset, max int64, iso kafka.Isolation) (v view, hw kafka.Offset, err error) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != kafka.None {
		return view{}, 0, d.closed
	}
	v.HighWatermark, v.LastStable, v.LogStart = d.state.NextOffset, l.lastStable(), kafka.Offset(l.logStart.Load())
	if from < v.LogStart {
		return view{}, 0, kafka.OffsetOutOfRange
	}
	v.from, v.limit = from, v.HighWatermark
	if iso == kafka.ReadCommitted {
		v.limit = v.LastStable
		v.Aborted = []bundle.AbortedTxn{}
		v.ended = touching(d.state.Aborted, from, v.limit)
	}
	if from >= v.limit {
		return v, v.HighWatermark, nil
	}
	v.sealed = from < d.hotStart()
	if !v.sealed {
		v.slices = d.hot.cover(from, v.limit, max)
	}
	return v, v.HighWatermark, nil
}

// hotStart returns the offset from which the hot index has all.
func (d *durable) hotStart() kafka.Offset {
	if len(d.hot.slices) > 0 {
		return d.hot.slices[0].Base
	}
	return d.state.NextOffset
}

// cover returns copies of the slices from the one that holds from, enough for
// max bytes.
func (x *index) cover(from, limit kafka.Offset, max int64) []slice {
	i := x.find(from)
	j, bytes := i, int64(0)
	for j < len(x.slices) && x.slices[j].Base < limit && j-i < maxReadRefs {
		j++
		if j-i > 1 { // the first may have to be skipped almost wholly
			bytes += x.slices[j-1].Len
		}
		if bytes >= max {
			break
		}
	}
	return slices.Clone(x.slices[i:j])
}

// readHot reads within the bounds from consecutive slices. What it has when a
// later slice can't be read is returned; the next read finds out why.
func (s source) readHot(ctx context.Context, w bounds, hot []slice, a *objcache.Arena) ([][]byte, kafka.Offset, error) {
	if len(hot) > 1 {
		s.cache.Prefetch(ctx, spans(w, hot), a)
	}
	var bufs [][]byte
	next := w.from
	for i := range hot {
		part, n, end, err := s.readSlice(ctx, w, &hot[i], a)
		switch {
		case err != nil && len(bufs) == 0:
			return nil, next, err
		case err != nil:
			return bufs, next, nil //nolint:nilerr // what was read is served; the next fetch meets the error again
		}
		if bufs == nil {
			bufs = part
		} else {
			bufs = append(bufs, part...)
		}
		next = end
		w.max -= n
		if next <= hot[i].Last || w.max <= 0 {
			break
		}
		w.from, w.one = next, len(bufs) == 0
	}
	return bufs, next, nil
}

// readSlice reads within the bounds from one slice.
func (s source) readSlice(ctx context.Context, w bounds, e *slice, a *objcache.Arena) (bufs [][]byte, n int64, next kafka.Offset, err error) {
	lo, hi := e.span(w)
	bufs, err = objcache.ReadLong(ctx, s.cache, e.Key, e.Pos+lo.pos, hi-lo.pos, a)
	if err != nil {
		return nil, 0, w.from, err
	}
	if w.from == lo.base && hi == e.Len && hi-lo.pos <= w.max && w.limit > e.Last {
		return bufs, hi - lo.pos, e.Last + 1, nil // all of it
	}
	tail := e.floorPos(lo.pos + w.max)
	if byLimit := e.floorOffset(w.limit); byLimit.pos < tail.pos {
		tail = byLimit
	}
	tail.pos -= lo.pos
	r := newRun(bufs)
	from, to, next, err := r.cut(w, tail)
	if err != nil {
		return nil, 0, w.from, err
	}
	if from == 0 && to == r.size {
		return bufs, to, next, nil
	}
	return sub(bufs, from, to), to - from, next, nil
}

// span returns what has to be read of a slice: no more of it than from the
// mark before the first batch to the one behind the last.
func (s *slice) span(w bounds) (lo mark, hi int64) {
	lo = s.floorOffset(max(w.from, s.Base))
	return lo, s.ceilPos(s.ceilPos(lo.pos+1) + min(w.max, s.Len))
}

// spans returns the ranges that a read of slices whose marks are known takes.
func spans(w bounds, hot []slice) []objcache.Range {
	ranges := make([]objcache.Range, 0, len(hot))
	for i := range hot {
		s := &hot[i]
		if w.max <= 0 || s.marks == nil && s.Len > 2*markBytes {
			break
		}
		lo, hi := s.span(w)
		ranges = append(ranges, objcache.Range{Key: s.Key, Off: s.Pos + lo.pos, N: min(hi-lo.pos, objcache.MaxRead)})
		if i > 0 { // of the first, a part may be skipped
			w.max -= hi - lo.pos
		}
	}
	return ranges
}

// Ask is a Read that is about to follow.
type Ask struct {
	Log   *Log
	From  kafka.Offset
	Limit int
}

// Prefetch reads what Reads into the same arena are about to want from hot
// indexes: logs that are read together often lie together in WAL objects.
// total bounds the bytes of all.
func Prefetch(ctx context.Context, asks []Ask, total int64, iso kafka.Isolation, a *objcache.Arena) {
	var ranges []objcache.Range
	var cache Cache
	for _, ask := range asks {
		if total <= 0 {
			break
		}
		w := bounds{from: ask.From, max: min(max(1, int64(ask.Limit)), maxReadBytes, total)}
		v, err := ask.Log.resolve(w.from, w.max, iso)
		if err != nil || v.sealed {
			continue // told by the Read
		}
		for _, r := range spans(w, v.slices) {
			ranges, total = append(ranges, r), total-r.N
		}
		cache = ask.Log.o.Cache
	}
	if len(ranges) > 0 {
		cache.Prefetch(ctx, ranges, a)
	}
}

// learnMarks finds the marks of long slices that recovery brought without
// them, and keeps them for the next reader.
func (l *Log) learnMarks(ctx context.Context, hot []slice) error {
	for i := range hot {
		s := &hot[i]
		if s.marks != nil || s.Len <= 2*markBytes {
			continue
		}
		err := l.walk(ctx, s.Ref, func(h record.Header, pos int64) bool {
			s.marks = addMark(s.marks, h.BaseOffset, pos)
			return true
		})
		if err != nil {
			s.marks = nil
			return err
		}
		l.learn(*s)
	}
	return nil
}

func (l *Log) learn(s slice) {
	l.durable.mu.Lock()
	defer l.durable.mu.Unlock()
	l.durable.hot.learn(s)
}

// readSealed reads from the sealed segments. The cold reader knows nothing of
// transactions that are open, so what lies behind the limit is cut off.
func (s source) readSealed(ctx context.Context, w bounds, a *objcache.Arena) ([][]byte, kafka.Offset, error) {
	bufs, next, err := s.cold.Read(ctx, s.tp, w.from, w.max, a)
	if err != nil || next <= w.limit {
		return bufs, next, err
	}
	w.max = 1<<63 - 1
	r := newRun(bufs)
	lo, hi, next, err := r.cut(w, mark{})
	return sub(bufs, lo, hi), next, err
}

// aborted adds the aborted transactions that touch what was read. Those of the
// hot index were noted before any was sealed, so none is missed; one that
// was sealed meanwhile is found twice.
func (s source) aborted(ctx context.Context, v *view, next kafka.Offset) error {
	v.Aborted = append(v.Aborted, touching(v.ended, v.from, next)...)
	if v.sealed {
		sealed, err := s.cold.Aborted(ctx, s.tp, v.from, next)
		if err != nil {
			return err
		}
		v.Aborted = append(v.Aborted, sealed...)
	}
	slices.SortFunc(v.Aborted, func(a, b bundle.AbortedTxn) int {
		return cmp.Or(cmp.Compare(a.FirstOffset, b.FirstOffset), cmp.Compare(a.ProducerID, b.ProducerID))
	})
	v.Aborted = slices.CompactFunc(v.Aborted, func(a, b bundle.AbortedTxn) bool {
		return a.FirstOffset == b.FirstOffset && a.ProducerID == b.ProducerID
	})
	return nil
}

// touching returns the transactions that have offsets in [from, to).
func touching(txns []bundle.AbortedTxn, from, to kafka.Offset) []bundle.AbortedTxn {
	var out []bundle.AbortedTxn
	for _, t := range txns {
		if t.LastOffset >= from && t.FirstOffset < to {
			out = append(out, t)
		}
	}
	return out
}
