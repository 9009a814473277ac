package cold

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// errFound ends a walk early.
var errFound = errors.New("found")

// walk calls fn with each segment from an offset on, until it returns an error.
func (r *Reader) walk(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, fn func(catalog.Segment) error) error {
	for {
		segs, err := r.o.Catalog.Segments(ctx, tp, from, pageSegments)
		if err != nil {
			return fmt.Errorf("walk segments of %s: %w", tp, err)
		}
		for _, s := range segs {
			if err := fn(s); err != nil {
				return err
			}
			from = s.End
		}
		if len(segs) < pageSegments {
			return nil
		}
	}
}

// FindTimestamp returns the first record whose time is ts (ms) or later.
func (r *Reader) FindTimestamp(ctx context.Context, tp kafka.TopicPartition, ts int64) (off kafka.Offset, at int64, epoch kafka.LeaderEpoch, ok bool, err error) {
	err = r.resolving(tp, func() error {
		return r.walk(ctx, tp, 0, func(s catalog.Segment) error {
			if s.Key == "" || s.MaxTimestamp < ts {
				return nil
			}
			return r.batches(ctx, s, func(f bundle.Frame) bool { return f.MaxTime >= ts }, func(b []byte, h record.Header) error {
				off, at, ok, err = record.FindTimestamp(b, ts)
				epoch = h.LeaderEpoch
				if ok || err != nil {
					return errors.Join(errFound, err)
				}
				return nil
			})
		})
	})
	return off, at, epoch, ok, found(err)
}

// MaxTimestamp returns the first record with the largest time (KIP-734).
func (r *Reader) MaxTimestamp(ctx context.Context, tp kafka.TopicPartition) (off kafka.Offset, at int64, epoch kafka.LeaderEpoch, ok bool, err error) {
	err = r.resolving(tp, func() error {
		var best catalog.Segment
		best.MaxTimestamp = -1
		if err := r.walk(ctx, tp, 0, func(s catalog.Segment) error {
			if s.Key != "" && s.MaxTimestamp > best.MaxTimestamp {
				best = s
			}
			return nil
		}); err != nil || best.Key == "" {
			return err
		}
		return r.batches(ctx, best, func(f bundle.Frame) bool { return f.MaxTime == best.MaxTimestamp }, func(b []byte, h record.Header) error {
			if h.MaxTimestamp != best.MaxTimestamp {
				return nil
			}
			off, at, err = record.MaxTimestampOffset(b)
			epoch, ok = h.LeaderEpoch, err == nil
			return errors.Join(errFound, err)
		})
	})
	return off, at, epoch, ok, found(err)
}

func found(err error) error {
	if err == nil || !errors.Is(err, errFound) {
		return err
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !errors.Is(e, errFound) {
				return e
			}
		}
	}
	return nil
}

// batches calls fn with the batches of a segment's frames that want accepts.
func (r *Reader) batches(ctx context.Context, s catalog.Segment, want func(bundle.Frame) bool, fn func(b []byte, h record.Header) error) error {
	footer, err := r.Footer(ctx, s)
	if err != nil {
		return err
	}
	for i, f := range footer.Frames {
		if !want(f) {
			continue
		}
		raw, err := r.frame(ctx, s, footer, i)
		if err != nil {
			return err
		}
		for b, err := range record.Split(raw) {
			if err != nil {
				return fmt.Errorf("segment %s: %w", s.Key, err)
			}
			h, err := record.ParseHeader(b)
			if err != nil {
				return err
			}
			if err := fn(b, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// Aborted returns the aborted transactions that end in sealed segments and
// touch [from, to): those listed in the segments from the one that holds from on, until
// one whose last stable offset has passed to.
func (r *Reader) Aborted(ctx context.Context, tp kafka.TopicPartition, from, to kafka.Offset) (all []bundle.AbortedTxn, err error) {
	err = r.resolving(tp, func() error {
		all = nil
		return r.walk(ctx, tp, from, func(s catalog.Segment) error {
			if s.Key == "" {
				return nil
			}
			footer, err := r.Footer(ctx, s)
			if err != nil {
				return err
			}
			for _, a := range footer.Aborted {
				if a.FirstOffset < to && a.LastOffset >= from {
					all = append(all, a)
				}
			}
			if footer.State.LastStable >= to {
				return errFound
			}
			return nil
		})
	})
	if errors.Is(err, objstore.ErrNotFound) {
		err = nil
	}
	return all, found(err)
}
