package partition

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// durable is the half of a Log that readers see: the state at the durable
// offset and the index of the hot slices. No I/O is done under its lock.
type durable struct {
	mu      sync.Mutex
	state   bundle.State
	hot     index
	since   int64           // when the first hot slice came, in ms
	changed chan struct{}   // closed at the next advance; nil: nobody waits
	closed  kafka.ErrorCode // None: open
}

// open takes up what recovery found. When its slices came isn't known: not
// after their largest timestamp, if that is past.
func (d *durable) open(o *Options, t *recovery.Tail, now time.Time) {
	d.state, d.hot, d.since = recovery.CloneState(&t.State), newIndex(t.Hot), now.UnixMilli()
	recovery.AssignEpoch(&d.state, o.Epoch, t.State.NextOffset)
	d.hot.drop(t.State.SealedEnd)
	n := len(d.hot.slices)
	if n == 0 {
		return
	}
	if end := d.hot.slices[n-1].Last + 1; end != t.State.NextOffset {
		panic(fmt.Sprintf("open %s: slices end at offset %d, the state at %d", o.TP, end, t.State.NextOffset))
	}
	if first := d.hot.slices[0].MaxTimestamp; first > 0 && first < d.since {
		d.since = first
	}
}

// Durable takes in a slice that the WAL has put under key (wal.Target): its
// records are visible from here on. Announce follows.
func (l *Log) Durable(key string, s bundle.Slice) {
	if len(s.Batches) == 0 {
		return
	}
	e := newSlice(key, s)
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Base != d.state.NextOffset {
		panic(fmt.Sprintf("%s: slice at offset %d became durable, want %d", l.o.TP, e.Base, d.state.NextOffset))
	}
	for _, b := range s.Batches {
		recovery.Fold(&d.state, b)
	}
	if len(d.hot.slices) == 0 {
		d.since = time.Now().UnixMilli()
	}
	d.hot.push(e)
	l.traffic.Add(e.Len)
	l.publish()
}

// Announce wakes who waits for the log to change (wal.Target).
func (l *Log) Announce() {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	d.announce()
}

// publish makes the durable half's numbers visible to those that don't lock.
// durable.mu is held.
func (l *Log) publish() {
	l.hw.Store(int64(l.durable.state.NextOffset))
	l.hotSlices.Store(int64(len(l.durable.hot.slices)))
}

// announce wakes who waits; mu is held.
func (d *durable) announce() {
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

// AwaitDurable waits until the record at offset last is durable. It returns
// the ErrorCode that the log was closed with when that will not be known here
// any more, or ctx's error.
func (l *Log) AwaitDurable(ctx context.Context, last kafka.Offset) error {
	for {
		if kafka.Offset(l.hw.Load()) > last {
			return nil
		}
		changed, closed := l.watch(last)
		if closed != kafka.None {
			return closed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch returns the channel that is closed at the next change, a closed one if
// the record at last is durable already.
func (l *Log) watch(last kafka.Offset) (<-chan struct{}, kafka.ErrorCode) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.state.NextOffset > last, d.closed != kafka.None:
		now := make(chan struct{})
		close(now)
		if d.state.NextOffset > last {
			return now, kafka.None
		}
		return now, d.closed
	case d.changed == nil:
		d.changed = make(chan struct{})
	}
	return d.changed, kafka.None
}

// Changed returns a channel that is closed when the high watermark or the
// log's start advances next, or when the log is closed. Take it before looking.
func (l *Log) Changed() <-chan struct{} {
	changed, _ := l.watch(1<<63 - 1)
	return changed
}

// SetLogStart raises the log's start, at most to the high watermark, and
// forgets hot slices and epochs that lie below. The caller has written it to
// the catalogue first.
func (l *Log) SetLogStart(off kafka.Offset) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	off = min(off, d.state.NextOffset)
	if off <= kafka.Offset(l.logStart.Load()) {
		return
	}
	l.raiseLogStart(off)
	l.publish()
	d.announce()
}

// raiseLogStart does SetLogStart's work; durable.mu is held, but in New.
func (l *Log) raiseLogStart(off kafka.Offset) {
	d := &l.durable
	l.logStart.Store(int64(off))
	d.hot.drop(off)
	d.dropAborted(off)
	n := 0
	for n+1 < len(d.state.Epochs) && d.state.Epochs[n+1].Start <= off {
		n++
	}
	d.state.Epochs = slices.Delete(d.state.Epochs, 0, n)
}

// dropAborted forgets the aborted transactions that end below off.
func (d *durable) dropAborted(off kafka.Offset) {
	d.state.Aborted = slices.DeleteFunc(d.state.Aborted, func(t bundle.AbortedTxn) bool { return t.LastOffset < off })
}

// Snapshot returns a copy of what is durable.
func (l *Log) Snapshot() Snapshot {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	st := recovery.CloneState(&d.state)
	return Snapshot{State: st, Hot: d.hot.refs(), Aborted: st.Aborted}
}

// Sealed forgets the hot slices below the end of a segment that is in the
// catalogue. The cold reader must know the segment before.
func (l *Log) Sealed(seg catalog.Segment) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	if seg.End > d.state.NextOffset {
		panic(fmt.Sprintf("%s: segment ends at offset %d, the log at %d", l.o.TP, seg.End, d.state.NextOffset))
	}
	d.hot.drop(seg.End)
	d.dropAborted(seg.End)
	d.state.SealedEnd = max(d.state.SealedEnd, seg.End)
	d.since = time.Now().UnixMilli()
	l.hotSlices.Store(int64(len(d.hot.slices)))
}

// Moved tells that slices of a snapshot lie in the object key now, a
// checkpoint that the slot names. Readers that hold an older reference come back
// for a new one when the old object has gone.
func (l *Log) Moved(moved []bundle.Slice, key string) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.hot.joinMoved(moved) {
		d.hot.replace(key, m)
	}
	l.hotSlices.Store(int64(len(d.hot.slices)))
}

// Size returns the hot tail's bytes and slices.
func (l *Log) Size() (bytes int64, slices int) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hot.bytes, len(d.hot.slices)
}

// Close ends the log: appends, reads and waits fail with err from here on.
func (l *Log) Close(err kafka.ErrorCode) {
	l.tip.mu.Lock()
	l.tip.closed = err
	l.tip.mu.Unlock()
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = err
	l.publish()
	d.announce()
}
