package compaction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// JobName names the job's lease, and with the lease's epoch what it writes.
const JobName = "compact"

const (
	maxEntries   = 50_000           // of a log, looked at in one pass; what lies behind waits
	leaseTime    = 3 * time.Minute  // what a turn takes the lease for at a time
	keepPeriod   = 30 * time.Second // between two prolongations
	putTimeout   = 10 * time.Minute // of one attempt to write a group
	endTimeout   = 10 * time.Second // of what a turn does once its time is over
	reserveTurns = 4                // intervals after which another schedule may take over
)

// Options are what a Job needs.
type Options struct {
	Catalog *catalog.Catalog
	Store   objstore.Store
	Slots   int    // of the cluster
	Holder  string // who runs it: a broker, which has no other such job, or catalog.FunctionHolder
	// Config returns the brokers' settings, from which a topic's own follow:
	// log.cleaner.backoff.ms, log.cleaner.dedupe.buffer.size,
	// segment.merge.interval.ms and segment.merge.min.count are the job's.
	Config func() *config.Broker
	// Reserve is how long the work stays with Holder behind a turn: some turns
	// of its schedule. 0: four of log.cleaner.backoff.ms.
	Reserve time.Duration
	Level   zstd.EncoderLevel // of what is written; 0: the fastest

	// Pace is called before each n bytes are read, and may wait; nil: never.
	Pace         func(ctx context.Context, n int64) error
	Unreferenced func(tp kafka.TopicPartition) // entries were replaced: forget what is cached of them; nil: nobody cares
	Logger       *slog.Logger                  // nil: discard
	Registerer   prometheus.Registerer         // nil: no metrics
}

// Stats are what a turn did.
type Stats struct {
	PassStats
	Logs       int   // looked at
	Cleaned    int   // passes over logs
	Dirty      int64 // bytes of batches that were found to wait
	Unfinished bool  // the time was over before all was clean
}

// Job compacts the logs of a cluster. Its methods are called by one goroutine:
// Run, or a caller that does without it.
type Job struct {
	o       Options
	dec     *bundle.FrameDecoder
	metrics metrics
	merged  position // how far merging was at the last turn's end
}

// New returns a Job. It starts nothing.
func New(o Options) (*Job, error) {
	if o.Catalog == nil || o.Store == nil || o.Config == nil || o.Slots <= 0 || o.Holder == "" {
		return nil, errors.New("compaction options: a port or name is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Unreferenced == nil {
		o.Unreferenced = func(kafka.TopicPartition) {}
	}
	dec, err := bundle.NewFrameDecoder()
	if err != nil {
		return nil, err
	}
	j := &Job{o: o, dec: dec, metrics: newMetrics()}
	if o.Registerer != nil {
		if err := j.metrics.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return j, nil
}

// Run takes turns until ctx ends. Failures are logged and tried again.
func (j *Job) Run(ctx context.Context) error {
	timer := time.NewTimer(j.o.Config().CleanerBackoff)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if _, err := j.Turn(ctx); err != nil && ctx.Err() == nil {
			j.metrics.failures.Inc()
			j.o.Logger.Warn("compact logs", "err", err)
		}
		timer.Reset(j.o.Config().CleanerBackoff)
	}
}

// Turn cleans what is dirty enough, the dirtiest log first, and then, once in
// segment.merge.interval.ms, merges what is small, until it is done or ctx
// ends; the next turn finds what is left. It does nothing while somebody else is at it, and
// what it does holds even then.
func (j *Job) Turn(ctx context.Context) (Stats, error) {
	t := &turn{Job: j, kept: time.Now()}
	err := bounded(ctx, t.begin)
	if errors.Is(err, catalog.ErrHeld) || err == nil && t.lease.Epoch == 0 {
		return t.stats, nil
	}
	if err != nil {
		return t.stats, err
	}
	errs := []error{t.all(ctx)}
	if ctx.Err() == nil && !t.lost {
		errs = append(errs, t.mergeAll(ctx))
	}
	j.merged = t.at
	if ctx.Err() != nil {
		t.stats.Unfinished, errs = true, nil // what failed, failed for that
	}
	return t.stats, errors.Join(append(errs, t.end(ctx))...)
}

// begin takes the lease if there may be work.
func (t *turn) begin(ctx context.Context) error {
	if err := t.o.Catalog.Refresh(ctx); err != nil {
		return err
	}
	if len(t.compacted()) == 0 && !t.mergeDue(t.merged) {
		return nil
	}
	lease, err := t.o.Catalog.AcquireLease(ctx, JobName, t.o.Holder, leaseTime)
	if err != nil {
		return err
	}
	t.lease = lease
	t.at, err = positionOf(lease)
	return err
}
