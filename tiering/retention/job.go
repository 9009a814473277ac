package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	removeBatch  = 40      // entries in one commit
	readEntries  = 1000    // entries read at once
	maxDoomed    = 1 << 16 // objects that wait; with more, nothing is removed
	maxUnsure    = 1 << 12 // partitions
	callTimeout  = 30 * time.Second
	firstPass    = 30 * time.Second // Kafka's log manager waits as long
	topicsPeriod = 15 * time.Second
	defaultGrace = time.Minute
)

// Partition is a partition as its owner sees it at the beginning of a pass.
type Partition struct {
	Topic    catalog.Topic
	TP       kafka.TopicPartition
	Config   config.Topic
	LogStart kafka.Offset
	Sealed   kafka.Offset // end of the segments that the owner knows of; 0: none
	HotBytes int64
	// SetLogStart raises the log's start, in the catalogue and then for the
	// owner's readers.
	SetLogStart func(ctx context.Context, off kafka.Offset) error
}

// Options are what a Job needs.
type Options struct {
	Catalog *catalog.Catalog
	Store   objstore.Store
	Slots   int // of the cluster
	// Partitions returns the partitions that this process owns.
	Partitions func() []Partition
	// Interval returns the time between two passes over them
	// (log.retention.check.interval.ms).
	Interval func() time.Duration
	// Grace is the time between the end of a deleted topic's last reference
	// and the deletion of its objects; 0: a minute. A partition's own is file.delete.delay.ms.
	Grace time.Duration

	Unreferenced func(tp kafka.TopicPartition) // entries went: forget what is cached of them; nil: nobody cares
	Deleted      func(key string)              // an object is about to go; nil: nobody cares
	Logger       *slog.Logger                  // nil: discard
	Registerer   prometheus.Registerer         // nil: no metrics
}

// Job applies retention. Its methods are called by one goroutine: Run, or a
// caller that does without it.
type Job struct {
	o       Options
	doomed  []doomed                    // unreferenced objects that wait for their deletion, soonest first
	emptied map[kafka.TopicID]time.Time // deleted topics without references, since when
	// unsure has entries whose removal was answered by an error: they may be
	// gone, or go later.
	unsure  map[kafka.TopicPartition][]catalog.Segment
	metrics metrics
}

// New returns a Job. It starts nothing.
func New(o Options) (*Job, error) {
	if o.Catalog == nil || o.Store == nil || o.Partitions == nil || o.Interval == nil || o.Slots <= 0 {
		return nil, errors.New("retention options: a port is missing")
	}
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Unreferenced == nil {
		o.Unreferenced = func(kafka.TopicPartition) {}
	}
	if o.Deleted == nil {
		o.Deleted = func(string) {}
	}
	j := &Job{o: o, emptied: make(map[kafka.TopicID]time.Time), unsure: make(map[kafka.TopicPartition][]catalog.Segment), metrics: newMetrics()}
	if o.Registerer != nil {
		if err := j.metrics.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return j, nil
}

// Run applies retention until ctx ends. What then waits for its deletion is
// left to the sweep. Failures are logged and tried again.
func (j *Job) Run(ctx context.Context) error {
	pass := time.NewTimer(min(firstPass, j.interval()))
	defer pass.Stop()
	topics := time.NewTicker(topicsPeriod)
	defer topics.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-pass.C:
			err = j.Pass(ctx)
			pass.Reset(j.interval())
		case <-topics.C:
			err = j.CleanDeleted(ctx)
		case <-due.C:
			err = j.DeleteDue(ctx)
		}
		if err != nil && ctx.Err() == nil {
			j.metrics.failures.Inc()
			j.o.Logger.Warn("apply retention", "err", err)
		}
		due.Reset(j.untilDue())
	}
}

// interval keeps a configured 0 from becoming a loop.
func (j *Job) interval() time.Duration { return max(j.o.Interval(), time.Millisecond) }

// Pass goes over all partitions once. One that fails does not hold up the
// others.
func (j *Job) Pass(ctx context.Context) error {
	var errs []error
	for _, p := range j.o.Partitions() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := j.Partition(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("retain %s-%d: %w", p.Topic.Name, p.TP.Partition, err))
		}
	}
	return errors.Join(errs...)
}

// Partition applies retention to one partition, up to the deletion of
// the objects, which waits. Entries that changed meanwhile, or whose topic went, are left
// to the next pass.
func (j *Job) Partition(ctx context.Context, p Partition) error {
	if p.Sealed == 0 || len(j.doomed) >= maxDoomed {
		return nil
	}
	if err := j.settle(ctx, p); err != nil {
		return err
	}
	d, err := j.plan(ctx, p)
	if err != nil {
		return err
	}
	err = j.apply(ctx, p, d)
	if errors.Is(err, catalog.ErrFenced) || errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	return err
}

// apply does what was decided, in the order of the package's comment.
func (j *Job) apply(ctx context.Context, p Partition, d Decision) error {
	if d.LogStart > p.LogStart {
		if err := bounded(ctx, func(ctx context.Context) error { return p.SetLogStart(ctx, d.LogStart) }); err != nil {
			return fmt.Errorf("raise log start to %d: %w", d.LogStart, err)
		}
	}
	for rest := d.Remove; len(rest) > 0; {
		n := min(len(rest), removeBatch)
		if err := j.remove(ctx, p, rest[:n], d.Replacement); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// plan reads as many entries as it takes to decide.
func (j *Job) plan(ctx context.Context, p Partition) (Decision, error) {
	l := Log{Config: p.Config, LogStart: p.LogStart, Sealed: p.Sealed, HotBytes: p.HotBytes}
	needAll := p.Config.Delete && p.Config.RetentionBytes >= 0
	for from := kafka.Offset(0); ; {
		var page []catalog.Segment
		err := bounded(ctx, func(ctx context.Context) (err error) {
			page, err = j.o.Catalog.Segments(ctx, p.TP, from, readEntries)
			return err
		})
		if err != nil {
			return Decision{}, fmt.Errorf("read segments: %w", err)
		}
		l.Segments = append(l.Segments, page...)
		last := len(page) < readEntries
		if last || !needAll {
			d := Plan(time.Now(), l)
			if last || len(d.Remove) < len(l.Segments) {
				return d, nil
			}
		}
		from = page[len(page)-1].End
	}
}

// bounded gives one call its deadline.
func bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return fn(ctx)
}
