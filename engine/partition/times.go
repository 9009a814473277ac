package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// The timestamps that ListOffsets has for special offsets.
const (
	Latest                int64 = -1
	Earliest              int64 = -2
	MaxTimestamp          int64 = -3 // KIP-734
	EarliestLocal         int64 = -4 // KIP-405: here, where the hot index begins
	LatestTiered          int64 = -5 // KIP-1005: the last sealed offset
	EarliestPendingUpload int64 = -6 // KIP-1023: where the sealed segments end
)

// found is a record that a lookup by timestamp found.
type found struct {
	off   kafka.Offset
	ts    int64
	epoch kafka.LeaderEpoch
	ok    bool
}

// ListOffset looks an offset up by a special timestamp, or returns the first
// record whose timestamp (ms) is at least ts. -1, -1, -1 without an error means
// that there is none, or none below the last stable offset for read_committed.
// Errors are those of Read but kafka.OffsetOutOfRange.
func (l *Log) ListOffset(ctx context.Context, ts int64, iso kafka.Isolation) (kafka.Offset, int64, kafka.LeaderEpoch, error) {
	off, epoch, limit, special, err := l.listSpecial(ts, iso)
	if err != nil || special {
		return off, -1, epoch, err
	}
	for attempt := 1; ; attempt++ {
		var f found
		if ts == MaxTimestamp {
			f, err = l.maxTimestamp(ctx)
		} else {
			f, err = l.findTimestamp(ctx, ts)
		}
		switch {
		case err == nil && f.ok && f.off < limit:
			return f.off, f.ts, f.epoch, nil
		case err == nil:
			return -1, -1, -1, nil
		case !errors.Is(err, objstore.ErrNotFound):
			return -1, -1, -1, fmt.Errorf("look up timestamp %d in %s: %w", ts, l.o.TP, err)
		case attempt == resolves:
			return -1, -1, -1, fmt.Errorf("look up timestamp %d in %s: %w: %w", ts, l.o.TP, kafka.KafkaStorageError, err)
		}
		l.o.Metrics.resolved()
	}
}

// listSpecial answers what needs no records, and returns the bound of the
// isolation level.
func (l *Log) listSpecial(ts int64, iso kafka.Isolation) (off kafka.Offset, epoch kafka.LeaderEpoch, limit kafka.Offset, special bool, err error) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != kafka.None {
		return -1, -1, 0, true, d.closed
	}
	start := kafka.Offset(l.logStart.Load())
	limit = d.state.NextOffset
	if iso == kafka.ReadCommitted {
		limit = l.lastStable()
	}
	switch ts {
	case Latest:
		return limit, l.o.Epoch, limit, true, nil
	case Earliest:
		off = start
	case EarliestLocal:
		off = max(start, d.hotStart())
	case LatestTiered:
		off = d.state.SealedEnd - 1
	case EarliestPendingUpload:
		off = max(start, d.state.SealedEnd)
	default:
		return 0, 0, limit, false, nil
	}
	return off, d.epochAt(off), limit, true, nil
}

// maxTimestamp returns the first record with the largest timestamp.
func (l *Log) maxTimestamp(ctx context.Context) (found, error) {
	hot, ok, sealed := l.maxSlice()
	if sealed {
		off, ts, epoch, found_, err := l.o.Cold.MaxTimestamp(ctx, l.o.TP)
		if err != nil || found_ && (!ok || ts >= hot.MaxTimestamp) {
			return found{off, ts, epoch, found_}, err
		}
	}
	if !ok {
		return found{}, nil
	}
	return l.search(ctx, hot, hot.MaxTimestamp, func(b []byte) (kafka.Offset, int64, bool, error) {
		off, ts, err := record.MaxTimestampOffset(b)
		return off, ts, err == nil, err
	})
}

// maxSlice returns the first hot slice with the largest timestamp, and whether
// there may be sealed records too.
func (l *Log) maxSlice() (hot Ref, ok, sealed bool) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.hot.slices {
		if !ok || s.MaxTimestamp > hot.MaxTimestamp {
			hot, ok = s.Ref, true
		}
	}
	return hot, ok, kafka.Offset(l.logStart.Load()) < d.hotStart()
}

// findTimestamp returns the first record from the log's start whose timestamp
// is at least ts.
func (l *Log) findTimestamp(ctx context.Context, ts int64) (found, error) {
	start, sealedTo := l.sealedRange()
	if start < sealedTo {
		off, rts, epoch, ok, err := l.o.Cold.FindTimestamp(ctx, l.o.TP, ts)
		switch {
		case err != nil:
			return found{}, err
		case ok && off >= start:
			return found{off, rts, epoch, true}, nil
		case ok: // in the segment that the log's start lies in
			if f, err := l.scan(ctx, start, sealedTo, ts); err != nil || f.ok {
				return f, err
			}
		}
	}
	for from := sealedTo; ; {
		s, ok := l.sliceWithTime(from, ts)
		if !ok {
			return found{}, nil
		}
		f, err := l.search(ctx, s, ts, func(b []byte) (kafka.Offset, int64, bool, error) { return findFrom(b, ts, start) })
		if err != nil || f.ok {
			return f, err
		}
		from = s.Last + 1
	}
}

func (l *Log) sealedRange() (from, to kafka.Offset) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	return kafka.Offset(l.logStart.Load()), d.hotStart()
}

// sliceWithTime returns the first hot slice from an offset on whose largest
// timestamp is at least ts.
func (l *Log) sliceWithTime(from kafka.Offset, ts int64) (Ref, bool) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.hot.slices[d.hot.find(from):] {
		if s.MaxTimestamp >= ts {
			return s.Ref, true
		}
	}
	return Ref{}, false
}

// search walks a slice's batches whose largest timestamp is at least ts and
// returns the first record that look finds in one.
func (l *Log) search(ctx context.Context, s Ref, ts int64, look func(batch []byte) (kafka.Offset, int64, bool, error)) (found, error) {
	var f found
	var inner error
	a := objcache.NewArena()
	defer a.Release()
	err := l.walk(ctx, s, func(h record.Header, pos int64) bool {
		if h.MaxTimestamp < ts {
			return true
		}
		bufs, err := objcache.ReadLong(ctx, l.o.Cache, s.Key, s.Pos+pos, int64(h.Size()), a)
		if err != nil {
			inner = err
			return false
		}
		f.off, f.ts, f.ok, inner = look(join(bufs, 0, int64(h.Size())))
		f.epoch = h.LeaderEpoch
		return inner == nil && !f.ok
	})
	if inner != nil {
		err = inner
	}
	return f, err
}

// scan looks for the first record in [from, to) with a timestamp of at least
// ts, batch by batch.
func (l *Log) scan(ctx context.Context, from, to kafka.Offset, ts int64) (found, error) {
	const step = 1 << 20
	a := objcache.NewArena()
	defer a.Release()
	for next := from; next < to; {
		bufs, end, err := l.o.Cold.Read(ctx, l.o.TP, next, step, a)
		if err != nil {
			return found{}, err
		}
		var f found
		var inner error
		_, _, err = walkRun(bufs, 0, func(h record.Header, pos int64) bool {
			if h.MaxTimestamp >= ts && h.LastOffset() >= from {
				f.off, f.ts, f.ok, inner = findFrom(join(bufs, pos, pos+int64(h.Size())), ts, from)
				f.epoch = h.LeaderEpoch
			}
			return inner == nil && !f.ok
		})
		if err = errors.Join(err, inner); err != nil || f.ok || end <= next {
			return f, err
		}
		next = end
		a.Release()
	}
	return found{}, nil
}

// findFrom returns the first record of a batch with an offset of at least from
// and a timestamp of at least ts.
func findFrom(b []byte, ts int64, from kafka.Offset) (kafka.Offset, int64, bool, error) {
	off, rts, ok, err := record.FindTimestamp(b, ts)
	if err != nil || !ok || off >= from {
		return off, rts, ok, err
	}
	h, err := record.ParseHeader(b)
	if err != nil {
		return 0, 0, false, err
	}
	for r, err := range record.Records(b, record.MaxDecompressed) {
		if err != nil {
			return 0, 0, false, err
		}
		off, rts := h.BaseOffset+kafka.Offset(r.OffsetDelta), h.FirstTimestamp+r.TimestampDelta
		if h.LogAppendTime() {
			rts = h.MaxTimestamp
		}
		if off >= from && rts >= ts {
			return off, rts, true, nil
		}
	}
	return 0, 0, false, nil
}
