package retention

import (
	"cmp"
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

// JobName names the job's lease.
const JobName = "retention"

const (
	removeBatch   = 40               // entries in one commit
	raiseBatch    = 40               // log starts in one commit
	readEntries   = 1000             // entries read at once
	deadBatch     = 20               // notes read at once, of up to removeBatch objects each
	callTimeout   = 30 * time.Second // of one call
	endTimeout    = 10 * time.Second // of what a run does once its time is over
	leaseTime     = 2 * time.Minute  // what a run takes the lease for at a time
	keepPeriod    = 30 * time.Second // between two records of how far a run is
	reserveTurns  = 3                // intervals after which another schedule may take over
	turnPeriod    = 15 * time.Second // how often Run looks for work
	topicGrace    = time.Minute      // from a deleted topic's last reference to the end of its objects
	minTurnPeriod = 10 * time.Millisecond
)

// Options are what a Job needs.
type Options struct {
	Catalog *catalog.Catalog
	Store   objstore.Store
	Slots   int    // of the cluster
	Holder  string // who runs it: a broker, which has no other such job, or catalog.FunctionHolder
	// Config returns the brokers' settings, from which a topic's own follow.
	Config func() *config.Broker
	// Interval returns the time between two passes
	// (log.retention.check.interval.ms); nil: each turn makes one.
	Interval func() time.Duration
	// Reserve is how long the work stays with Holder behind a turn: some turns
	// of its schedule. 0: three intervals.
	Reserve time.Duration

	// Tail returns the bytes of a log that are not sealed, where this process
	// knows them; they count towards retention.bytes. Nil: never.
	Tail         func(tp kafka.TopicPartition) int64
	Unreferenced func(tp kafka.TopicPartition) // entries went: forget what is cached of them; nil: nobody cares
	Deleted      func(key string)              // an object is about to go; nil: nobody cares
	Logger       *slog.Logger                  // nil: discard
	Registerer   prometheus.Registerer         // nil: no metrics
}

// Stats are what a turn did.
type Stats struct {
	Partitions, Raised int   // gone over; whose log start was raised
	Segments           int64 // entries unreferenced
	Bytes              int64 // of their objects
	Objects            int64 // deleted
	Offsets            int   // of groups, expired
	Txns               int   // transactional ids, expired
	Unfinished         bool  // the time was over before the pass
}

// Job applies retention. Its methods are called by one goroutine: Run, or a
// caller that does without it.
type Job struct {
	o       Options
	metrics metrics
	quiet   map[kafka.TopicID][]quiet // by partition
}

// New returns a Job. It starts nothing.
func New(o Options) (*Job, error) {
	if o.Catalog == nil || o.Store == nil || o.Config == nil || o.Slots <= 0 || o.Holder == "" {
		return nil, errors.New("retention options: a port or name is missing")
	}
	if o.Interval == nil {
		o.Interval = func() time.Duration { return 0 }
	}
	if o.Tail == nil {
		o.Tail = func(kafka.TopicPartition) int64 { return 0 }
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
	j := &Job{o: o, metrics: newMetrics(), quiet: make(map[kafka.TopicID][]quiet)}
	if o.Registerer != nil {
		if err := j.metrics.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return j, nil
}

// Run takes turns until ctx ends, whenever there may be work and nobody else
// is at it. Failures are logged and tried again.
func (j *Job) Run(ctx context.Context) error {
	timer := time.NewTimer(j.period())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		due, err := j.due(ctx)
		if due && err == nil {
			_, err = j.Turn(ctx)
		}
		if err != nil && ctx.Err() == nil {
			j.metrics.failures.Inc()
			j.o.Logger.Warn("apply retention", "err", err)
		}
		timer.Reset(j.period())
	}
}

func (j *Job) period() time.Duration {
	if i := j.o.Interval(); i > 0 {
		return max(min(turnPeriod, i), minTurnPeriod)
	}
	return turnPeriod
}

// due tells whether a turn would find work, without writing anything.
func (j *Job) due(ctx context.Context) (due bool, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		lease, err := j.o.Catalog.Lease(ctx, JobName)
		if err != nil || !lease.Free(j.o.Holder, time.Now()) {
			return err
		}
		if at, err := positionOf(lease); err != nil || j.passDue(at) || j.groupsDue(at) {
			due = true
			return err
		}
		dead, err := j.o.Catalog.DeadObjects(ctx, time.Now(), 1)
		if err != nil || len(dead) > 0 {
			due = true
			return err
		}
		topics, err := j.o.Catalog.DeletedTopics(ctx)
		due = len(topics) > 0
		return err
	})
	return due, err
}

// position is how far the job is: the state of its lease.
type position struct {
	Passed    int64  `json:"passed"`              // ms; when the last whole pass began
	Began     int64  `json:"began,omitempty"`     // ms; when the pass that is not finished did
	Topic     string `json:"topic,omitempty"`     // with Began: where it goes on
	Partition int32  `json:"partition,omitempty"` // of Topic
	Groups    int64  `json:"groups,omitempty"`    // ms; when all groups had been looked at
	Slot      int    `json:"slot,omitempty"`      // whose groups come next
}

func positionOf(l catalog.Lease) (p position, err error) {
	err = l.ReadState(&p)
	return p, err
}

// passDue tells whether to begin a pass or go on with one. A last pass in the
// future is by a clock that was ahead: when it was, nobody knows.
func (j *Job) passDue(p position) bool {
	d := time.Since(time.UnixMilli(p.Passed))
	return p.Began > 0 || d < 0 || d >= j.o.Interval()
}

// turn is one run of the job.
type turn struct {
	*Job
	lease catalog.Lease
	at    position
	kept  time.Time
	stats Stats
}

// Turn does what is due, until it is done or ctx ends; what is then left, the
// next turn goes on with. It does nothing while somebody else is at it, and
// what it does holds even then.
func (j *Job) Turn(ctx context.Context) (Stats, error) {
	t := &turn{Job: j, kept: time.Now()}
	err := bounded(ctx, func(ctx context.Context) (err error) {
		if t.lease, err = j.o.Catalog.AcquireLease(ctx, JobName, j.o.Holder, leaseTime); err != nil {
			return err
		}
		return j.o.Catalog.Refresh(ctx)
	})
	if errors.Is(err, catalog.ErrHeld) {
		return t.stats, nil
	}
	if err == nil {
		t.at, err = positionOf(t.lease)
	}
	if err != nil {
		return t.stats, err
	}
	errs := []error{t.deleteDue(ctx), t.cleanDeleted(ctx)}
	if t.passDue(t.at) {
		errs = append(errs, t.pass(ctx))
	}
	if ctx.Err() == nil && t.groupsDue(t.at) {
		errs = append(errs, t.groups(ctx))
	}
	if ctx.Err() != nil {
		t.stats.Unfinished, errs = true, nil // what failed, failed for that
	}
	return t.stats, errors.Join(append(errs, t.end(ctx))...)
}

// end gives the lease back, even when the time is over.
func (t *turn) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	t.lease.WriteState(t.at)
	reserve := cmp.Or(t.o.Reserve, reserveTurns*max(t.o.Interval(), turnPeriod))
	err := t.o.Catalog.ReleaseLease(ctx, t.lease, reserve)
	if errors.Is(err, catalog.ErrFenced) {
		return nil // somebody else goes on
	}
	return err
}

// keep records now and then how far the turn is. ErrFenced: it is over.
func (t *turn) keep(ctx context.Context) error {
	if time.Since(t.kept) < keepPeriod {
		return nil
	}
	t.kept = time.Now()
	t.lease.WriteState(t.at)
	return bounded(ctx, func(ctx context.Context) (err error) {
		t.lease, err = t.o.Catalog.KeepLease(ctx, t.lease, leaseTime)
		return err
	})
}

// bounded gives one call its deadline.
func bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return fn(ctx)
}
