package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/meta"
)

// ErrHeld means that somebody else is at a job's work, or is expected to go on
// with it.
var ErrHeld = errors.New("catalog: lease is held")

// FunctionHolder is the name under which functions take the leases of jobs.
const FunctionHolder = "function"

// longestLease is more than any job takes a lease for at a time. One that lies further ahead was taken by a
// clock that was wrong.
const longestLease = time.Hour

// Lease is the right to do a job's work, and where it stands. What makes it
// safe is that each of the job's commits checks the lease's item, which changes with
// every acquisition: a holder that was overtaken can commit nothing more. The
// times only say when others may try.
type Lease struct {
	Job      string
	Epoch    int64  // grows with each acquisition; names what the holder writes
	Holder   string // a broker's name, or FunctionHolder
	State    string // the job's own: what is kept from one run to the next
	Until    time.Time
	Reserved time.Time
	item     meta.Item
}

// ReadState reads the job's own state, as WriteState wrote it, into v; v stays as it is where there is none.
func (l Lease) ReadState(v any) error {
	if l.State == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(l.State), v); err != nil {
		return fmt.Errorf("read state of %s: %w", l.Job, err)
	}
	return nil
}

// WriteState makes v, which JSON can write, the job's own state. It is kept by the next commit of the lease.
func (l *Lease) WriteState(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a job's state is numbers and strings
	}
	l.State = string(b)
}

func leaseKey(job string) meta.Key { return meta.Key{PK: "jobs", SK: job} }

func leaseOf(job string, item meta.Item) (Lease, error) {
	l := Lease{Job: job, item: bare(item)}
	if item.Version == 0 {
		return l, nil
	}
	f := read(item)
	l.Epoch, l.Holder, l.State = f.int("epoch"), f.text("holder"), f.text("state")
	l.Until, l.Reserved = time.UnixMilli(f.int("until")), time.UnixMilli(f.int("reserved"))
	return l, f.err
}

func (l Lease) attrs() meta.Attrs {
	return meta.Attrs{
		"v": format, "epoch": l.Epoch, "holder": l.Holder, "state": l.State,
		"until": l.Until.UnixMilli(), "reserved": l.Reserved.UnixMilli(),
	}
}

// Free tells whether holder may try to take the lease: nobody is at work, and
// the work is not reserved for another name. Functions need not mind the latter:
// where there are any, the work is theirs, and brokers have it while none runs.
// A broker has one of each job, so what its name is at work with was left by a process that is gone.
func (l Lease) Free(holder string, now time.Time) bool {
	switch {
	case l.Until.Sub(now) > longestLease:
		return true
	case holder == FunctionHolder:
		return !now.Before(l.Until)
	case holder == l.Holder:
		return true
	}
	return !now.Before(l.Until) && !now.Before(l.Reserved)
}

// Lease returns a job's lease as it is; one that nobody ever had has Epoch 0.
func (c *Catalog) Lease(ctx context.Context, job string) (Lease, error) {
	k := leaseKey(job)
	item, err := c.get(ctx, k.PK, k.SK)
	if err != nil {
		return Lease{}, fmt.Errorf("read lease of %s: %w", job, err)
	}
	return leaseOf(job, item)
}

// AcquireLease takes a job's lease for d, at most an hour, which KeepLease prolongs. ErrHeld: it
// is not free, or somebody else was quicker.
func (c *Catalog) AcquireLease(ctx context.Context, job, holder string, d time.Duration) (Lease, error) {
	l, err := c.Lease(ctx, job)
	if err != nil {
		return Lease{}, err
	}
	now := time.Now()
	if !l.Free(holder, now) {
		return Lease{}, fmt.Errorf("take lease of %s: %w", job, ErrHeld)
	}
	l.Epoch++
	l.Holder, l.Until, l.Reserved = holder, now.Add(d), now.Add(d)
	next, err := c.writeLease(ctx, l)
	if errors.Is(err, ErrFenced) {
		err = ErrHeld
	}
	if err != nil {
		return Lease{}, fmt.Errorf("take lease of %s: %w", job, err)
	}
	return next, nil
}

// KeepLease records how far the work is and prolongs the lease to d from now.
// ErrFenced: somebody else has it.
func (c *Catalog) KeepLease(ctx context.Context, l Lease, d time.Duration) (Lease, error) {
	l.Until = time.Now().Add(d)
	l.Reserved = l.Until
	next, err := c.writeLease(ctx, l)
	if err != nil {
		return l, fmt.Errorf("keep lease of %s: %w", l.Job, err)
	}
	return next, nil
}

// ReleaseLease records how far the work is, and lets others of the holder's name
// in at once, all others after reserve.
func (c *Catalog) ReleaseLease(ctx context.Context, l Lease, reserve time.Duration) error {
	l.Until = time.Now()
	l.Reserved = l.Until.Add(reserve)
	if _, err := c.writeLease(ctx, l); err != nil {
		return fmt.Errorf("release lease of %s: %w", l.Job, err)
	}
	return nil
}

func (c *Catalog) writeLease(ctx context.Context, l Lease) (Lease, error) {
	old := l.item
	old.Key = leaseKey(l.Job)
	put := meta.Put(old, l.attrs())
	id, err := c.commit(ctx, put)
	if err != nil {
		return l, fencedIf(err)
	}
	l.item = written(put, id)
	return l, nil
}

// checks returns the operation that checks a lease; none for nil.
func (l *Lease) checks() []meta.Op {
	if l == nil {
		return nil
	}
	return []meta.Op{meta.Check(l.item)}
}
