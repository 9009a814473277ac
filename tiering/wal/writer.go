package wal

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Writer is the group commit of one session. All methods are safe for
// concurrent use; Run is called once.
type Writer struct {
	o    Options
	wake chan struct{} // one token: Run looks again
	done chan struct{} // closed when Run has ended

	mu       sync.Mutex // guards all below; never held over anything that blocks
	queue    []Entry    // appended, in no object yet
	queued   int64      // bytes of queue
	since    time.Time  // when the first of queue was appended
	backlog  int64      // bytes appended and not durable
	appended uint64     // entries ever appended,
	taken    uint64     // put into objects,
	durable  uint64     // and durable
	asked    uint64     // entries that somebody wants flushed
	hasty    time.Time  // until when the interval is a part of itself
	oldest   time.Time  // first append of the oldest object in flight; zero: none
	pos      Position
	admits   []*admission
	progress chan struct{} // closed at the next change of durable or err; nil: nobody waits
	closing  bool
	err      error // what Append and Flush return once it is over
	sealedAt int64 // with err, once Close's seal is durable
}

// Position tells how far a writer is.
type Position struct {
	Next    int64 // sequence number of the next object
	Durable int64 // all objects below are durable, and their Durable calls have returned
	Bytes   int64 // size of all those together
	Pending int64 // bytes appended that are not in one of those yet
}

// New returns a writer whose first object has the number o.Origin.Seq.
func New(o Options) *Writer {
	o.setDefaults()
	return &Writer{
		o:        o,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		pos:      Position{Next: o.Origin.Seq, Durable: o.Origin.Seq},
		sealedAt: -1,
	}
}

// Append queues a batch. It never blocks, so it can be called under the
// partition's lock: the order of calls is the order in the log. ErrClosed
// means that the entry will not become durable.
func (w *Writer) Append(e Entry) error {
	n := int64(len(e.Data))
	w.mu.Lock()
	if w.err != nil || w.closing {
		w.mu.Unlock()
		return ErrClosed
	}
	if len(w.queue) == 0 {
		w.since = time.Now()
	}
	w.queue = append(w.queue, e)
	w.queued += n
	w.backlog += n
	w.appended++
	flush := int64(w.o.FlushBytes)
	look := len(w.queue) == 1 || w.queued >= flush && w.queued-n < flush
	w.mu.Unlock()
	if look {
		w.look()
	}
	return nil
}

// look makes Run look again.
func (w *Writer) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// admission is a caller who waits in Admit.
type admission struct {
	n     int64
	ready chan struct{} // closed when it may go on, or err is set
	err   error
}

// Admit waits while more than Options.PendingBytes would be on their way with
// n bytes more; called before n bytes are appended. First come, first served.
// It reserves nothing: callers that pass at the same moment may pass the bound
// by what they bring. Errors: ErrClosed, ctx's.
func (w *Writer) Admit(ctx context.Context, n int) error {
	w.mu.Lock()
	switch {
	case w.err != nil || w.closing:
		w.mu.Unlock()
		return ErrClosed
	case len(w.admits) == 0 && w.backlog+int64(n) <= w.o.PendingBytes:
		w.mu.Unlock()
		return nil
	}
	a := &admission{n: int64(n), ready: make(chan struct{})}
	w.admits = append(w.admits, a)
	w.admit()
	w.mu.Unlock()
	select {
	case <-a.ready:
		return a.err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.admits, a); i >= 0 {
		w.admits = slices.Delete(w.admits, i, i+1)
		w.admit()
	}
	return ctx.Err()
}

// admit lets waiting callers go on; mu is held. With nothing on its way all
// go, since nothing would call it again.
func (w *Writer) admit() {
	room, n := w.o.PendingBytes-w.backlog, 0
	for _, a := range w.admits {
		if room -= a.n; room < 0 && w.backlog > 0 {
			break
		}
		close(a.ready)
		n++
	}
	w.admits = slices.Delete(w.admits, 0, n)
}

// Flush waits until all that was appended before is durable and its Durable
// calls have returned. Errors: ErrFenced, ErrClosed, ctx's.
func (w *Writer) Flush(ctx context.Context) error {
	w.mu.Lock()
	upTo := w.appended
	w.asked = max(w.asked, upTo)
	w.look()
	for w.durable < upTo && w.err == nil {
		if w.progress == nil {
			w.progress = make(chan struct{})
		}
		changed := w.progress
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		w.mu.Lock()
	}
	defer w.mu.Unlock()
	if w.durable < upTo {
		return w.err
	}
	return nil
}

// Hasten makes the least time between two PUTs a quarter of Options.Interval
// for a while: after a change of owner, whose records have waited already.
func (w *Writer) Hasten(d time.Duration) {
	w.mu.Lock()
	w.hasty = time.Now().Add(d)
	w.mu.Unlock()
	w.look()
}

// Close takes nothing more, flushes, and puts the session's own seal; then
// Run returns nil. It returns the seal's sequence number once that is durable,
// or ErrFenced when somebody else's seal came first, or ErrClosed when Run
// ended in another way. Where ctx ends first, closing goes on in Run.
func (w *Writer) Close(ctx context.Context) (sealedAt int64, err error) {
	w.mu.Lock()
	w.closing = true
	w.refuse(ErrClosed)
	w.mu.Unlock()
	w.look()
	select {
	case <-w.done:
	case <-ctx.Done():
		return -1, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sealedAt >= 0 {
		return w.sealedAt, nil
	}
	return -1, w.err
}

// refuse turns away all who wait in Admit; mu is held.
func (w *Writer) refuse(err error) {
	for _, a := range w.admits {
		a.err = err
		close(a.ready)
	}
	w.admits = nil
}

// Position tells how far the writer is.
func (w *Writer) Position() Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pos
	p.Pending = w.backlog
	return p
}

// OldestWaiting returns when the oldest batch that is not yet durable was
// appended; zero if there is none.
func (w *Writer) OldestWaiting() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.oldest.IsZero():
		return w.oldest
	case len(w.queue) > 0:
		return w.since
	}
	return time.Time{}
}

// over ends the writer's life: nothing is taken any more and nothing that
// still waits will become durable. The first reason stays.
func (w *Writer) over(err error, sealedAt int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.sealedAt = sealedAt
	w.refuse(ErrClosed)
	w.announce()
}

// announce wakes those who wait in Flush; mu is held.
func (w *Writer) announce() {
	if w.progress != nil {
		close(w.progress)
		w.progress = nil
	}
}
