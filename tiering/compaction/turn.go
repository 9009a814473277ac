package compaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/upload"
)

// turn is one run of the job.
type turn struct {
	*Job
	lease catalog.Lease
	at    position // of merging
	kept  time.Time
	lost  bool         // the lease is somebody else's
	count atomic.Int64 // numbers what this lease writes
	stats Stats
}

// target is a log that has enough to clean.
type target struct {
	topic *catalog.Topic
	tp    kafka.TopicPartition
	cfg   config.Topic
	ratio float64
}

// end gives the lease back, even when the time is over.
func (t *turn) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	t.lease.WriteState(t.at)
	err := t.o.Catalog.ReleaseLease(ctx, t.lease, cmp.Or(t.o.Reserve, reserveTurns*t.o.Config().CleanerBackoff))
	if errors.Is(err, catalog.ErrFenced) {
		return nil // somebody else goes on
	}
	return err
}

// keep prolongs the lease now and then, and records how far merging is.
// ErrFenced: the turn is over.
func (t *turn) keep(ctx context.Context) error {
	if time.Since(t.kept) < keepPeriod {
		return nil
	}
	t.kept = time.Now()
	t.lease.WriteState(t.at)
	return bounded(ctx, func(ctx context.Context) (err error) {
		t.lease, err = t.o.Catalog.KeepLease(ctx, t.lease, leaseTime)
		t.lost = t.lost || errors.Is(err, catalog.ErrFenced)
		return err
	})
}

// pace is called before each n bytes are read.
func (t *turn) pace(ctx context.Context, n int64) error {
	if err := t.keep(ctx); err != nil || t.o.Pace == nil {
		return err
	}
	return t.o.Pace(ctx, n)
}

// all cleans the logs that are due. One that fails does not hold up the others.
func (t *turn) all(ctx context.Context) error {
	targets, errs := t.survey(ctx)
	for _, l := range targets {
		if err := t.log(ctx, l); err != nil {
			errs = append(errs, fmt.Errorf("compact %s-%d: %w", l.topic.Name, l.tp.Partition, err))
		}
		if ctx.Err() != nil || t.lost {
			break
		}
	}
	return errors.Join(errs...)
}

// compacted returns the topics with cleanup.policy=compact, as targets without a partition.
func (j *Job) compacted() (all []target) {
	for _, topic := range j.o.Catalog.Topics().All() {
		if cfg := config.EffectiveTopic(j.o.Config(), topic.Configs); cfg.Compact {
			all = append(all, target{topic: topic, cfg: cfg})
		}
	}
	return all
}

// survey returns the logs that seem to have enough to clean, the dirtiest first.
func (t *turn) survey(ctx context.Context) (targets []target, errs []error) {
	var dirty int64
	for _, of := range t.compacted() {
		for p := int32(0); p < of.topic.Partitions && ctx.Err() == nil; p++ {
			l := of
			l.tp = kafka.TopicPartition{Topic: of.topic.ID, Partition: p}
			segs, err := t.segments(ctx, l.tp, 0, maxEntries)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			t.stats.Logs++
			d := Plan(time.Now(), Log{Config: l.cfg, Stable: 1<<63 - 1, Segments: segs})
			if l.ratio = d.Ratio; d.Go {
				targets = append(targets, l)
			}
			dirty += d.Dirty
		}
	}
	t.stats.Dirty = dirty
	t.metrics.dirty.Set(float64(dirty))
	slices.SortStableFunc(targets, func(a, b target) int { return cmp.Compare(b.ratio, a.ratio) })
	return targets, errs
}

func (t *turn) segments(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int) (segs []catalog.Segment, err error) {
	err = bounded(ctx, func(ctx context.Context) (err error) {
		segs, err = t.o.Catalog.Segments(ctx, tp, from, limit)
		return err
	})
	return segs, err
}

// log cleans one log, in several passes where its keys need more than memory
// has room for. What was changed by others meanwhile is left to the next turn.
func (t *turn) log(ctx context.Context, l target) error {
	for {
		p, d, err := t.prepare(ctx, l, time.Now())
		if err != nil || !d.Go {
			return err
		}
		begin := time.Now()
		end, err := p.run(ctx, d)
		t.done(p)
		if overtaken(err) {
			t.o.Logger.Info("compaction was overtaken", "topic", l.topic.Name, "partition", l.tp.Partition, "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		t.stats.Cleaned++
		t.o.Logger.Info("log compacted", "topic", l.topic.Name, "partition", l.tp.Partition, "from", d.From, "to", end,
			"records", p.stats.Records, "left", p.stats.Left, "entries", p.stats.Replaced, "took", time.Since(begin))
	}
}

// overtaken tells whether others have changed or removed what was read.
func overtaken(err error) bool {
	return errors.Is(err, catalog.ErrFenced) || errors.Is(err, catalog.ErrNotFound) || errors.Is(err, cold.ErrGone)
}

func (t *turn) done(p *pass) {
	p.stats.Read = p.src.read
	t.stats.add(p.stats)
	t.metrics.add(p.stats)
}

func (s *Stats) add(o PassStats) {
	s.Records, s.Left, s.Read, s.Written = s.Records+o.Records, s.Left+o.Left, s.Read+o.Read, s.Written+o.Written
	s.Replaced, s.Merged = s.Replaced+o.Replaced, s.Merged+o.Merged
}

// prepare reads how a log is now and what there is to clean.
func (t *turn) prepare(ctx context.Context, l target, now time.Time) (*pass, Decision, error) {
	slot, start := kafka.PartitionSlot(l.topic.Name, l.tp.Partition, t.o.Slots), kafka.Offset(0)
	err := bounded(ctx, func(ctx context.Context) error {
		starts, err := t.o.Catalog.LogStarts(ctx, slot)
		start = starts[l.tp]
		return err
	})
	if err != nil {
		return nil, Decision{}, err
	}
	segs, err := t.segments(ctx, l.tp, start, maxEntries)
	if err != nil || firstDirty(segs) < 0 {
		return nil, Decision{}, err
	}
	p := t.passOver(l, segs)
	g, err := p.src.footer(ctx, lastObject(segs))
	if errors.Is(err, cold.ErrGone) {
		return nil, Decision{}, nil // retention was here
	}
	if err != nil {
		return nil, Decision{}, err
	}
	p.rules = rules{
		now: now.UnixMilli(), keep: l.cfg.DeleteRetentionMs, tip: segs[len(segs)-1].End - 1,
		keys: newKeys(t.o.Config().CleanerBufferBytes), active: activeOf(&g.State),
	}
	return p, Plan(now, Log{Config: l.cfg, Start: start, Stable: g.State.LastStable, Segments: segs}), nil
}

// passOver returns a pass over entries of a log, without rules.
func (t *turn) passOver(l target, segs []catalog.Segment) *pass {
	return &pass{
		tp: l.tp, segs: segs, limit: l.cfg.SegmentBytes,
		src: source{store: t.o.Store, dec: t.dec, pace: t.pace},
		uploads: upload.Options{
			Store: t.o.Store, Origin: bundle.Origin{Broker: upload.JobBroker, Epoch: t.lease.Epoch}, Count: &t.count, Level: t.o.Level, PutTimeout: putTimeout,
		},
		commit: func(ctx context.Context, old []catalog.Segment, next catalog.Segment) error {
			return t.swap(ctx, l, old, next)
		},
	}
}

// swap replaces entries by one, and notes the objects that have no name any more.
func (t *turn) swap(ctx context.Context, l target, old []catalog.Segment, next catalog.Segment) error {
	if err := t.keep(ctx); err != nil {
		return err
	}
	swap := catalog.Swap{Lease: &t.lease, Topic: l.topic, Old: old, New: []catalog.Segment{next}, Due: time.Now().Add(l.cfg.FileDeleteDelay)}
	if err := bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.SwapSegments(ctx, swap) }); err != nil {
		return err
	}
	t.o.Unreferenced(l.tp)
	return nil
}
