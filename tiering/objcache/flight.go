package objcache

import (
	"context"
	"sync"
)

// flights lets equal reads of the moment share one.
type flights struct {
	mu      sync.Mutex
	flights map[Range]*flight
}

// flight is a read that is under way.
type flight struct {
	done    chan struct{} // closed once the fields below are set
	buf     *buffer
	view    []byte // the range, in buf
	err     error
	ownFail bool // err is due to the leader's context

	waiters int32 // under flights.mu, until landed
	landed  bool
}

func newFlights() *flights { return &flights{flights: make(map[Range]*flight)} }

// do returns what load returns, for all equal calls of the moment, with a
// hold of the buffer for each. shared says that another's load was used. Only the
// caller whose load it is passes its context to it; when that one ends, the
// others load again.
func (fs *flights) do(ctx context.Context, k Range, load func() (*buffer, []byte, error)) (buf *buffer, view []byte, shared bool, err error) {
	for {
		f, leader := fs.join(k)
		if leader {
			f.buf, f.view, f.err = load()
			f.ownFail = f.err != nil && ctx.Err() != nil
			fs.land(k, f)
			return f.buf, f.view, false, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			fs.leave(f)
			return nil, nil, true, ctx.Err()
		}
		if !f.ownFail {
			return f.buf, f.view, true, f.err
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, true, err
		}
	}
}

func (fs *flights) join(k Range) (f *flight, leader bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f = fs.flights[k]; f != nil {
		f.waiters++
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	fs.flights[k] = f
	return f, true
}

// land ends a flight and gives each waiter its hold of the buffer.
func (fs *flights) land(k Range, f *flight) {
	fs.mu.Lock()
	delete(fs.flights, k)
	f.landed = true
	if f.buf != nil && f.waiters > 0 {
		f.buf.hold(f.waiters)
	}
	fs.mu.Unlock()
	close(f.done)
}

// leave is called by a waiter that does not wait any more.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	switch {
	case !f.landed:
		f.waiters--
	case f.buf != nil:
		f.buf.release()
	}
}
