package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/catalog"
)

const (
	endTimeout    = 10 * time.Second // of what a run does once its time is over
	leaseTime     = time.Minute      // what a run takes the lease for at a time: so long others wait for one that stands still
	keepPeriod    = 15 * time.Second // between two records of how far a run is
	reserveTurns  = 3                // intervals after which another schedule may take over
	turnPeriod    = time.Minute      // how often Run looks whether a pass is due
	minTurnPeriod = 10 * time.Millisecond
)

// Job sweeps by schedule: one pass after the other, under a lease that spares
// a second schedule the work. Its methods are called by one goroutine: Run, or a
// caller that does without it.
type Job struct {
	o                        Options
	objects, bytes, failures prometheus.Counter
}

// New returns a Job. It starts nothing.
func New(o Options) (*Job, error) {
	if o.Catalog == nil || o.Store == nil || o.Holder == "" {
		return nil, errors.New("sweep options: a port or name is missing")
	}
	o.setDefaults()
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "sweep", Name: name, Help: help})
	}
	j := &Job{
		o:        o,
		objects:  counter("objects_total", "Objects deleted that nothing named."),
		bytes:    counter("bytes_total", "Their bytes."),
		failures: counter("failures_total", "Passes in which something failed, to be tried again."),
	}
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{j.objects, j.bytes, j.failures} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return j, nil
}

// Run makes passes until ctx ends, whenever one is due and nobody else is at
// it. Failures are logged and tried again.
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
			j.failures.Inc()
			j.o.Logger.Warn("sweep", "err", err)
		}
		timer.Reset(j.period())
	}
}

func (j *Job) period() time.Duration {
	return max(min(turnPeriod, j.o.Interval()), minTurnPeriod)
}

// position is how far the job is: the state of its lease.
type position struct {
	Passed int64      `json:"passed"`          // ms; when the last whole pass ended
	After  string     `json:"after,omitempty"` // the pass that is not finished goes on behind this key
	Held   []savedLot `json:"held,omitempty"`  // and what it has found behind that and not deleted yet
}

func positionOf(l catalog.Lease) (p position, err error) {
	err = l.ReadState(&p)
	return p, err
}

// due tells whether a turn would find work, without writing anything.
func (j *Job) due(ctx context.Context) (bool, error) {
	lease, err := get(ctx, func(ctx context.Context) (catalog.Lease, error) { return j.o.Catalog.Lease(ctx, JobName) })
	if err != nil || !lease.Free(j.o.Holder, time.Now()) {
		return false, err
	}
	at, err := positionOf(lease)
	return j.passDue(at), err
}

// passDue tells whether to begin a pass or go on with one. A last pass in the
// future is by a clock that was ahead: when it was, nobody knows.
func (j *Job) passDue(at position) bool {
	d := time.Since(time.UnixMilli(at.Passed))
	return at.After != "" || len(at.Held) > 0 || d < 0 || d >= j.o.Interval()
}

// Turn makes a pass, or goes on with one, if it is due, until it is done or ctx ends; what is then
// left, the next turn goes on with. It does nothing while somebody else is at it.
func (j *Job) Turn(ctx context.Context) (Stats, error) {
	lease, err := get(ctx, func(ctx context.Context) (catalog.Lease, error) {
		return j.o.Catalog.AcquireLease(ctx, JobName, j.o.Holder, leaseTime)
	})
	if errors.Is(err, catalog.ErrHeld) {
		return Stats{}, nil
	}
	if err != nil {
		return Stats{}, err
	}
	at, err := positionOf(lease)
	if err != nil {
		return Stats{}, err
	}
	p := pass{Options: j.o, after: at.After, held: restore(at.Held, time.Now().Add(j.o.Grace()))}
	kept := time.Now()
	p.keep = func(ctx context.Context) error {
		if time.Since(kept) < keepPeriod {
			return nil
		}
		kept = time.Now()
		lease.WriteState(position{at.Passed, p.after, save(p.held)})
		return bounded(ctx, func(ctx context.Context) (err error) {
			lease, err = j.o.Catalog.KeepLease(ctx, lease, leaseTime)
			return err
		})
	}
	if j.passDue(at) {
		err = p.run(ctx)
		at.After, at.Held = p.after, save(p.held)
		if p.whole {
			at = position{Passed: time.Now().UnixMilli()}
		}
	}
	j.objects.Add(float64(p.stats.Objects))
	j.bytes.Add(float64(p.stats.Bytes))
	if ctx.Err() != nil || errors.Is(err, errLater) {
		p.stats.Unfinished, err = err != nil, nil // what failed, failed for that
	}
	lease.WriteState(at)
	return p.stats, errors.Join(err, j.end(ctx, lease))
}

// end gives the lease back, even when the time is over.
func (j *Job) end(ctx context.Context, lease catalog.Lease) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	reserve := cmp.Or(j.o.Reserve, reserveTurns*cmp.Or(j.o.Interval(), turnPeriod))
	err := j.o.Catalog.ReleaseLease(ctx, lease, reserve)
	if errors.Is(err, catalog.ErrFenced) {
		return nil // somebody else goes on
	}
	return err
}
