package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/hedge"
	"github.com/varvelog/varve/tiering/bundle"
)

// Run puts what is appended until Close's seal is durable (nil), somebody
// else's seal is seen (ErrFenced) or ctx ends (its error; the fate of what was
// in flight is unknown then). It panics when an object lies under one of this
// session's keys that is neither its own nor a seal: two writers have shared a
// session, and nothing can be promised any more.
func (w *Writer) Run(ctx context.Context) error {
	defer close(w.done)
	r := newRunner(w)
	sealedAt, err := r.stop(ctx)
	if errors.Is(err, ErrFenced) {
		w.over(ErrFenced, -1)
	} else {
		w.over(ErrClosed, sealedAt)
	}
	return err
}

// keepEntries is how much room for entries is kept when nothing waits.
const keepEntries = 1 << 10

// runner is the state of Run's goroutine.
type runner struct {
	w       *Writer
	policy  policy
	put     putter
	packer  packer
	spare   []Entry   // memory for the queue
	flights []*flight // in sequence order
	ended   chan *flight
	wg      sync.WaitGroup
	started time.Time // the newest flight
	crowded bool      // something waited when the last flight ended
	fenced  bool
	timer   *time.Timer
}

func newRunner(w *Writer) *runner {
	o := &w.o
	r := &runner{
		w:      w,
		policy: policy{interval: o.Interval, flushBytes: int64(o.FlushBytes), inFlight: o.InFlight},
		put:    putter{store: o.Store, timeout: o.PutTimeout, metrics: o.Metrics, logger: o.Logger},
		ended:  make(chan *flight, o.InFlight),
		timer:  time.NewTimer(time.Hour),
	}
	if o.Hedge {
		r.put.hedge = &hedge.Calls{Second: o.Metrics.hedged.Inc}
	}
	return r
}

// stop runs the loop and waits for all that it started.
func (r *runner) stop(ctx context.Context) (sealedAt int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		r.timer.Stop()
		r.wg.Wait()
		r.put.hedge.Wait()
	}()
	if err := r.loop(ctx); err != nil {
		return -1, err
	}
	return r.seal(ctx)
}

// loop returns nil when the writer is closing and all is durable.
func (r *runner) loop(ctx context.Context) error {
	for {
		if err := r.land(); err != nil {
			return err
		}
		v, closing := r.look()
		flush, wait := r.policy.next(time.Now(), v)
		switch {
		case r.fenced: // only those before the seal are waited for
		case flush:
			r.start(ctx)
			continue
		case closing && v.queued == 0 && v.inFlight == 0:
			return nil
		case wait > 0:
			r.timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.w.wake:
		case <-r.timer.C:
		case f := <-r.ended:
			f.landed = true
			r.crowded = v.queued > 0
			if f.outcome == sealed {
				r.fence(f)
			}
		}
	}
}

func (r *runner) look() (v view, closing bool) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	closing = r.w.closing
	return view{
		queued:    r.w.queued,
		inFlight:  len(r.flights),
		lastStart: r.started,
		crowded:   r.crowded,
		urgent:    closing || r.w.asked > r.w.taken,
		hasty:     time.Now().Before(r.w.hasty),
	}, closing
}

// start cuts an object from the queue's front and sends it off.
func (r *runner) start(ctx context.Context) {
	entries, origin, since := r.take()
	f := r.packer.pack(origin, entries)
	clear(entries)
	r.spare = entries[:0]
	f.since = since
	ctx, f.cancel = context.WithCancel(ctx)
	r.flights = append(r.flights, f)
	r.started = time.Now()
	r.note()
	r.w.o.Metrics.inFlight.Set(float64(len(r.flights)))
	r.wg.Go(func() {
		f.outcome, f.err = r.put.settle(ctx, &f.object)
		r.ended <- f // has room for all in flight
	})
}

// take takes the entries of the next object: MaxBytes of them, or one.
func (r *runner) take() (entries []Entry, origin bundle.Origin, since time.Time) {
	w := r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	n, bytes := 0, int64(0)
	for ; n < len(w.queue); n++ {
		size := int64(len(w.queue[n].Data))
		if n > 0 && bytes+size > int64(w.o.MaxBytes) {
			break
		}
		bytes += size
	}
	entries, since = w.queue[:n], w.since
	rest := w.queue[n:]
	w.queue = append(r.spare, rest...)
	clear(rest)
	w.queued -= bytes
	w.since = time.Now()
	w.taken += uint64(n)
	origin = w.o.Origin
	origin.Seq = w.pos.Next
	w.pos.Next++
	return entries, origin, since
}

// land applies the effects of the objects that are durable, in order. It
// returns ErrFenced at the first that never will be.
func (r *runner) land() error {
	for len(r.flights) > 0 && r.flights[0].landed {
		f := r.flights[0]
		switch f.outcome {
		case applied:
			r.flights = slices.Delete(r.flights, 0, 1)
			r.apply(f)
		case sealed:
			return ErrFenced
		case stopped:
			return f.err
		default:
			panic(fmt.Sprintf("wal: %s is not what this session put there: %v", f.key, f.err))
		}
	}
	return nil
}

func (r *runner) apply(f *flight) {
	f.cancel()
	w, size := r.w, f.body.Size()
	if w.o.Fill != nil {
		w.o.Fill(f.key, f.pieces())
	}
	for i, s := range f.slices {
		f.targets[i].Durable(f.key, s)
	}
	for _, t := range f.targets { // not before all are told: who waits for several wakes once
		t.Announce()
	}
	r.note()
	w.mu.Lock()
	w.durable += uint64(f.entries)
	w.backlog -= f.bytes
	w.pos.Durable = f.origin.Seq + 1
	w.pos.Bytes += size
	pending := w.backlog
	w.admit()
	w.announce()
	if len(r.flights) == 0 && len(w.queue) == 0 && max(cap(w.queue), cap(r.spare)) > keepEntries {
		w.queue, r.spare, r.packer = nil, nil, packer{}
	}
	w.mu.Unlock()
	m := w.o.Metrics
	m.flushes.Inc()
	m.bytes.Add(float64(size))
	m.pending.Set(float64(pending))
	m.inFlight.Set(float64(len(r.flights)))
}

// note keeps what OldestWaiting says about the objects in flight.
func (r *runner) note() {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.oldest = time.Time{}
	if len(r.flights) > 0 {
		r.w.oldest = r.flights[0].since
	}
}

// fence ends the session's life at once. Whatever is behind the seal can't be
// acknowledged any more; what lies before it may still land, and counts.
func (r *runner) fence(f *flight) {
	for _, g := range r.flights {
		if g.origin.Seq > f.origin.Seq {
			g.cancel()
		}
	}
	if r.fenced {
		return
	}
	r.fenced = true
	w := r.w
	w.o.Logger.Warn("session was sealed by somebody else", "key", f.key)
	w.mu.Lock()
	w.err = ErrFenced
	w.refuse(ErrClosed)
	w.announce()
	w.mu.Unlock()
	if w.o.Fenced != nil {
		w.o.Fenced()
	}
}

// seal puts the session's own seal behind its last object.
func (r *runner) seal(ctx context.Context) (at int64, err error) {
	origin := r.w.o.Origin
	origin.Seq = r.w.Position().Next
	body, sum := bundle.SealBuffers(origin, r.w.o.Origin)
	o := newObject(bundle.KindSeal, origin, body, sum)
	switch out, err := r.put.settle(ctx, &o); out {
	case applied:
		return origin.Seq, nil
	case sealed:
		r.fence(&flight{object: o})
		return -1, ErrFenced
	case stopped:
		return -1, err
	default:
		panic(fmt.Sprintf("wal: %s is not what this session put there: %v", o.key, err))
	}
}
