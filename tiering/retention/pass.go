package retention

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// pass goes over all partitions once, or goes on with a pass that was not
// finished. One that fails does not hold up the others.
func (t *turn) pass(ctx context.Context) error {
	if t.at.Began == 0 {
		t.at.Began = time.Now().UnixMilli()
	}
	starts, err := t.starts(ctx)
	if err != nil {
		return err
	}
	var errs []error
	var raise []catalog.LogStart
	for l := range t.logs(starts) {
		t.stats.Partitions++
		to := l.start
		rests, err := t.rests(ctx, l)
		if err == nil && !rests {
			to, err = t.partition(ctx, l)
		}
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("retain %s-%d: %w", l.topic.Name, l.tp.Partition, err))
		}
		if to > l.start {
			slot := kafka.PartitionSlot(l.topic.Name, l.tp.Partition, t.o.Slots)
			raise = append(raise, catalog.LogStart{Slot: slot, TP: l.tp, Topic: l.topic.Name, Offset: to})
		}
		if len(raise) >= raiseBatch {
			errs = append(errs, t.raise(ctx, raise))
			raise = raise[:0]
		}
		if len(raise) == 0 { // all up to here is done
			t.at.Topic, t.at.Partition = l.topic.Name, l.tp.Partition+1
		}
		if err := t.keep(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	errs = append(errs, t.raise(ctx, raise))
	t.at.Passed, t.at.Began, t.at.Topic, t.at.Partition = t.at.Began, 0, "", 0
	t.forget()
	return errors.Join(errs...)
}

// logs returns the partitions from the position on, in its order.
func (t *turn) logs(starts map[kafka.TopicPartition]kafka.Offset) iter.Seq[logOf] {
	from := t.at
	return func(yield func(logOf) bool) {
		for _, topic := range t.o.Catalog.Topics().All() {
			if topic.Name < from.Topic {
				continue
			}
			cfg := config.EffectiveTopic(t.o.Config(), topic.Configs)
			rule := ruleOf(cfg)
			for p := range topic.Partitions {
				tp := kafka.TopicPartition{Topic: topic.ID, Partition: p}
				if topic.Name == from.Topic && p < from.Partition {
					continue
				}
				if !yield(logOf{topic: topic, tp: tp, cfg: cfg, rule: rule, start: starts[tp]}) {
					return
				}
			}
		}
	}
}

// starts reads all log starts.
func (t *turn) starts(ctx context.Context) (map[kafka.TopicPartition]kafka.Offset, error) {
	all := make(map[kafka.TopicPartition]kafka.Offset)
	for slot := range t.o.Slots {
		err := bounded(ctx, func(ctx context.Context) error {
			starts, err := t.o.Catalog.LogStarts(ctx, kafka.Slot(slot))
			for tp, off := range starts {
				all[tp] = off
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (t *turn) raise(ctx context.Context, starts []catalog.LogStart) error {
	if len(starts) == 0 {
		return nil
	}
	err := bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.RaiseLogStarts(ctx, t.lease, starts) })
	if err == nil {
		t.stats.Raised += len(starts)
	}
	return err
}

// logOf is a partition at the beginning of its turn.
type logOf struct {
	topic *catalog.Topic
	tp    kafka.TopicPartition
	cfg   config.Topic
	rule  *rule // of cfg, one for all of the topic
	start kafka.Offset
}

// partition removes what lies below the log's start and returns to what the
// start has to be raised. Entries that changed meanwhile, or whose topic went,
// are left to the next pass.
func (t *turn) partition(ctx context.Context, l logOf) (start kafka.Offset, err error) {
	plan := Log{Config: l.cfg, LogStart: l.start}
	var size size
	if l.rule.bySize() {
		if size, err = t.size(ctx, l); err != nil {
			return l.start, err
		}
		plan.Bytes = size.bytes
	}
	start = l.start
	for from := kafka.Offset(0); ; {
		plan.Segments, plan.Last, err = t.segments(ctx, l.tp, from)
		if err != nil {
			return start, err
		}
		d := Plan(time.Now(), plan)
		if from == 0 && len(d.Remove) == 0 && d.LogStart == l.start {
			t.rest(l, firstAbove(plan.Segments, l.start), size)
			return l.start, nil
		}
		if len(plan.Segments) == 0 {
			return start, nil
		}
		from = plan.Segments[len(plan.Segments)-1].End
		start, plan.Bytes = max(start, d.LogStart), d.Bytes
		if err := t.remove(ctx, l, d); err != nil || !d.More {
			if errors.Is(err, catalog.ErrFenced) || errors.Is(err, catalog.ErrNotFound) {
				return l.start, nil
			}
			return start, err
		}
	}
}

// firstAbove returns the first entry with offsets from start on, or nil.
func firstAbove(segs []catalog.Segment, start kafka.Offset) *catalog.Segment {
	for i := range segs {
		if segs[i].End > start {
			return &segs[i]
		}
	}
	return nil
}

// size is how much there is of a log.
type size struct {
	bytes int64        // in all
	end   kafka.Offset // of its newest entry
	tail  int64        // bytes behind that
}

func (t *turn) size(ctx context.Context, l logOf) (size, error) {
	s := size{end: l.start, tail: t.o.Tail(l.tp)}
	s.bytes = s.tail
	for {
		segs, last, err := t.segments(ctx, l.tp, s.end)
		if err != nil {
			return s, err
		}
		for i := range segs {
			s.bytes += segs[i].RawSize
			s.end = segs[i].End
		}
		if last {
			return s, nil
		}
	}
}

// segments reads a page of entries, and whether it is the last one. It asks for
// one more to know: the newest entry must not pass for an older one.
func (t *turn) segments(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset) (segs []catalog.Segment, last bool, err error) {
	err = bounded(ctx, func(ctx context.Context) (err error) {
		segs, err = t.o.Catalog.Segments(ctx, tp, from, readEntries+1)
		return err
	})
	if len(segs) > readEntries {
		return segs[:readEntries], false, err
	}
	return segs, true, err
}

// remove unreferences entries. Their objects are noted by the same commit.
func (t *turn) remove(ctx context.Context, l logOf, d Decision) error {
	for rest := d.Remove; len(rest) > 0; {
		n := min(len(rest), removeBatch)
		swap := catalog.Swap{Lease: &t.lease, Topic: l.topic, Old: rest[:n], Due: time.Now().Add(l.cfg.FileDeleteDelay)}
		if rest = rest[n:]; len(rest) == 0 && d.Replacement != nil {
			swap.New = []catalog.Segment{*d.Replacement}
		}
		if err := bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.SwapSegments(ctx, swap) }); err != nil {
			return err
		}
		t.o.Unreferenced(l.tp)
		for i := range swap.Old {
			t.stats.Bytes += swap.Old[i].Size
			t.metrics.bytes.Add(float64(swap.Old[i].Size))
		}
		t.stats.Segments += int64(n)
		t.metrics.removed.Add(float64(n))
		t.o.Logger.Info("segments removed", "topic", l.topic.Name, "partition", l.tp.Partition, "count", n, "from", swap.Old[0].Base, "to", swap.Old[n-1].End)
	}
	return nil
}
