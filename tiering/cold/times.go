package cold

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// walkEntries is how many segment entries a walk over a partition reads at once.
const walkEntries = 1000

// found is a record that a lookup by time found.
type found struct {
	off   kafka.Offset
	at    int64 // ms
	epoch kafka.LeaderEpoch
	ok    bool
}

// FindTimestamp returns the first record whose time is ts (ms) or later.
// Errors are those of Read.
func (r *Reader) FindTimestamp(ctx context.Context, tp kafka.TopicPartition, ts int64) (off kafka.Offset, at int64, epoch kafka.LeaderEpoch, ok bool, err error) {
	var f found
	err = r.resolving(ctx, tp, func() error {
		f, err = r.findTimestamp(ctx, tp, ts)
		return err
	})
	if err != nil {
		return 0, 0, 0, false, fmt.Errorf("find time %d in %s: %w", ts, tp, err)
	}
	return f.off, f.at, f.epoch, f.ok, nil
}

func (r *Reader) findTimestamp(ctx context.Context, tp kafka.TopicPartition, ts int64) (f found, err error) {
	for seg, err := range r.segments(ctx, tp) {
		if err != nil {
			return f, err
		}
		if seg.Key == "" || seg.MaxTimestamp < ts {
			continue
		}
		for b, err := range r.batches(ctx, seg, func(f bundle.Frame) bool { return f.MaxTime >= ts }) {
			if err != nil {
				return f, err
			}
			if f.off, f.at, f.ok, err = record.FindTimestamp(b, ts); err != nil {
				return found{}, err
			}
			if f.ok {
				f.epoch, err = epochOf(b)
				return f, err
			}
		}
	}
	return found{}, nil
}

// MaxTimestamp returns the first record with the largest time (KIP-734).
// Errors are those of Read.
func (r *Reader) MaxTimestamp(ctx context.Context, tp kafka.TopicPartition) (off kafka.Offset, at int64, epoch kafka.LeaderEpoch, ok bool, err error) {
	var f found
	err = r.resolving(ctx, tp, func() error {
		f, err = r.maxTimestamp(ctx, tp)
		return err
	})
	if err != nil {
		return 0, 0, 0, false, fmt.Errorf("find largest time in %s: %w", tp, err)
	}
	return f.off, f.at, f.epoch, f.ok, nil
}

func (r *Reader) maxTimestamp(ctx context.Context, tp kafka.TopicPartition) (f found, err error) {
	best := catalog.Segment{MaxTimestamp: -1}
	for seg, err := range r.segments(ctx, tp) {
		if err != nil {
			return f, err
		}
		if seg.Key != "" && seg.MaxTimestamp > best.MaxTimestamp {
			best = seg
		}
	}
	if best.Key == "" {
		return f, nil
	}
	for b, err := range r.batches(ctx, best, func(f bundle.Frame) bool { return f.MaxTime == best.MaxTimestamp }) {
		if err != nil {
			return f, err
		}
		h, err := record.ParseHeader(b)
		if err != nil || h.MaxTimestamp != best.MaxTimestamp {
			continue // no error: batches has parsed it before
		}
		f.off, f.at, err = record.MaxTimestampOffset(b)
		f.epoch, f.ok = h.LeaderEpoch, err == nil
		return f, err
	}
	return f, nil
}

func epochOf(b []byte) (kafka.LeaderEpoch, error) {
	h, err := record.ParseHeader(b)
	return h.LeaderEpoch, err
}

// segments yields a partition's segment entries, in order, past the cache.
func (r *Reader) segments(ctx context.Context, tp kafka.TopicPartition) iter.Seq2[catalog.Segment, error] {
	return func(yield func(catalog.Segment, error) bool) {
		for from := kafka.Offset(0); ; {
			page, err := r.entries(ctx, tp, from)
			if err != nil {
				yield(catalog.Segment{}, err)
				return
			}
			for _, s := range page {
				if !yield(s, nil) {
					return
				}
				from = s.End
			}
			if len(page) < walkEntries {
				return
			}
		}
	}
}

func (r *Reader) entries(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset) ([]catalog.Segment, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	return r.o.Catalog.Segments(ctx, tp, from, walkEntries)
}

// batches yields the batches of a segment's frames that want accepts.
func (r *Reader) batches(ctx context.Context, seg catalog.Segment, want func(bundle.Frame) bool) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		footer, err := r.Footer(ctx, seg)
		if err != nil {
			yield(nil, err)
			return
		}
		for i, f := range footer.Frames {
			if !want(f) {
				continue
			}
			raw, err := r.frame(ctx, seg, footer, i)
			if err != nil {
				yield(nil, err)
				return
			}
			for b, err := range record.Split(raw) {
				if err != nil {
					err = fmt.Errorf("read segment %s: %w: %w", seg.Key, kafka.KafkaStorageError, err)
				}
				if !yield(b, err) || err != nil {
					return
				}
			}
		}
	}
}

// Aborted returns the aborted transactions that end in sealed segments and
// touch [from, to). A transaction is listed in the segment that holds its marker, so
// they are gathered from the segment that holds from up to the first one whose
// last stable offset has passed to: what ends behind it began behind it.
//
//	txn      first ───────────── marker
//	segment  [ from … to ][       ● last stable < to ][ last stable ≥ to: the last one ]
func (r *Reader) Aborted(ctx context.Context, tp kafka.TopicPartition, from, to kafka.Offset) (all []bundle.AbortedTxn, err error) {
	err = r.resolving(ctx, tp, func() error {
		all, err = r.aborted(ctx, tp, from, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list aborted transactions of %s: %w", tp, err)
	}
	return all, nil
}

func (r *Reader) aborted(ctx context.Context, tp kafka.TopicPartition, from, to kafka.Offset) ([]bundle.AbortedTxn, error) {
	var all []bundle.AbortedTxn
	for at := from; ; {
		seg, err := r.find(ctx, tp, at)
		if errors.Is(err, objstore.ErrNotFound) {
			return all, nil // the rest is not sealed yet
		}
		if err != nil {
			return nil, err
		}
		at = seg.End
		if seg.Key == "" {
			continue
		}
		footer, err := r.Footer(ctx, seg)
		if err != nil {
			return nil, err
		}
		for _, a := range footer.Aborted {
			if a.FirstOffset < to && a.LastOffset >= from {
				all = append(all, a)
			}
		}
		if footer.State.LastStable >= to {
			return all, nil
		}
	}
}
