package partition

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// tip is the half of a Log that appends: the state at the next offset. Nothing
// is done under its lock but checking, stamping, folding and WAL.Append.
type tip struct {
	mu    sync.Mutex
	state *bundle.State // nil: it rests. Its Epochs hold the last only, its Aborted nothing
	used  bool          // since the last Rest
	seen  []seen        // of each producer, by id

	closed  kafka.ErrorCode // None: open
	stopped kafka.ErrorCode // None: it appends
}

// seen is when a producer last appended here, ms of this machine.
type seen struct{ producer, at int64 }

// lastSeen returns where a producer's entry is, or belongs.
func (t *tip) lastSeen(id int64) (int, bool) {
	return slices.BinarySearchFunc(t.seen, id, func(s seen, id int64) int { return cmp.Compare(s.producer, id) })
}

// open begins at rest, with producers that were all seen now.
func (t *tip) open(st *bundle.State, now time.Time) {
	t.seen = make([]seen, len(st.Producers))
	for i := range t.seen {
		t.seen[i] = seen{st.Producers[i].ID, now.UnixMilli()}
	}
}

// SeenByTimestamps takes producers' last timestamps, of what is past, for when they appended last. Nobody remembers of a log that
// was not in memory; and if each of its producers counted as seen now, none would ever expire where that is often so.
func (l *Log) SeenByTimestamps() {
	t, d, now := &l.tip, &l.durable, time.Now().UnixMilli()
	t.mu.Lock()
	defer t.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.state.Producers {
		if i, ok := t.lastSeen(p.ID); ok {
			t.seen[i].at = min(now, p.LastTimestamp)
		}
	}
}

// Appended says where a batch lies.
type Appended struct {
	Base, Last kafka.Offset // -1 with an error
	LogStart   kafka.Offset
	Duplicate  bool // of a batch appended earlier, whose offsets these are
	// Timestamp is what a Produce response has as LogAppendTimeMs: of a
	// duplicate the original's, else -1 unless the batch has LogAppendTime.
	Timestamp int64
}

// Append gives a validated batch the next offsets, stamps it in place and
// hands it to the WAL, which keeps its bytes. h is the batch's header. A
// duplicate of one of its producer's last five batches is not appended: it is
// answered as the original, which may not be durable yet either. Errors are
// kafka.ErrorCodes; after one the log is as before.
func (l *Log) Append(batch []byte, h record.Header) (Appended, error) {
	return l.append(batch, h, func(*tip, bundle.Batch) error { return nil })
}

// append is Append; may has the last word, under the lock, about what is no duplicate.
func (l *Log) append(batch []byte, h record.Header, may func(t *tip, b bundle.Batch) error) (Appended, error) {
	a := Appended{Base: -1, Last: -1, LogStart: kafka.Offset(l.logStart.Load()), Timestamp: -1}
	b, err := describe(batch, h)
	if err != nil {
		return a, err
	}
	t := l.lockTip()
	defer t.mu.Unlock()
	if err := l.admit(); err != nil {
		l.o.Metrics.rejected(err)
		return a, err
	}
	original, err := t.check(b)
	if err == nil && original == nil {
		err = may(t, b)
	}
	if err != nil {
		l.o.Metrics.rejected(err)
		return a, err
	}
	if original != nil {
		l.o.Metrics.duplicate()
		a.Base, a.Timestamp, a.Duplicate = original.BaseOffset, original.Timestamp, true
		a.Last = a.Base + kafka.Offset(b.LastOffsetDelta)
		return a, nil
	}
	b.BaseOffset, b.LeaderEpoch = t.state.NextOffset, l.o.Epoch
	record.Stamp(batch, b.BaseOffset, b.LeaderEpoch)
	if err := l.o.WAL.Append(wal.Entry{Target: l, Slot: l.o.Slot, TP: l.o.TP, Batch: b, Data: batch}); err != nil {
		l.o.Metrics.rejected(kafka.NotLeaderOrFollower)
		return a, kafka.NotLeaderOrFollower // the session ended
	}
	t.fold(b)
	l.o.Metrics.appended(len(batch))
	a.Base, a.Last = b.BaseOffset, b.LastOffset()
	if h.LogAppendTime() {
		a.Timestamp = h.MaxTimestamp
	}
	return a, nil
}

// admit tells why nothing can be appended, if so.
func (l *Log) admit() error {
	switch {
	case l.tip.closed != kafka.None:
		return l.tip.closed
	case l.tip.stopped != kafka.None:
		return l.tip.stopped
	case l.hotSlices.Load() >= maxHotSlices:
		return kafka.NotEnoughReplicas // retriable: the tail can't be sealed at present
	}
	return nil
}

func (t *tip) check(b bundle.Batch) (*bundle.ProducerBatch, error) {
	if b.ProducerID < 0 {
		return nil, nil
	}
	return check(t.state, b)
}

func (t *tip) fold(b bundle.Batch) {
	recovery.Fold(t.state, b)
	t.state.Aborted = t.state.Aborted[:0]
	if b.ProducerID < 0 {
		return
	}
	i, ok := t.lastSeen(b.ProducerID)
	if !ok {
		t.seen = slices.Insert(t.seen, i, seen{producer: b.ProducerID})
	}
	t.seen[i].at = time.Now().UnixMilli()
}

// Stop makes appends fail with err from here on. What was appended becomes
// durable still, and reading goes on.
func (l *Log) Stop(err kafka.ErrorCode) {
	l.tip.mu.Lock()
	defer l.tip.mu.Unlock()
	l.tip.stopped = err
}

// Resume takes Stop back.
func (l *Log) Resume() { l.Stop(kafka.None) }

// Reopened returns a log that goes on from l at another epoch. l is stopped,
// and all of it durable.
func (l *Log) Reopened(epoch kafka.LeaderEpoch) *Log {
	snap, o := l.Snapshot(), l.o
	o.Epoch = epoch
	return New(o, recovery.Tail{State: snap.State, Hot: snap.Hot}, kafka.Offset(l.logStart.Load()))
}

// describe returns a batch's entry in a footer, without offsets and epoch.
func describe(batch []byte, h record.Header) (bundle.Batch, error) {
	b := bundle.Batch{
		LastOffsetDelta: h.LastOffsetDelta,
		Len:             int32(len(batch)),
		MaxTimestamp:    h.MaxTimestamp,
		Attributes:      h.Attributes,
		ProducerID:      h.ProducerID,
		ProducerEpoch:   h.ProducerEpoch,
		BaseSequence:    h.BaseSequence,
		ControlType:     -1,
		CoordEpoch:      -1,
	}
	if !h.Control() {
		return b, nil
	}
	var err error
	if b.ControlType, b.CoordEpoch, err = record.MarkerType(batch); err != nil {
		return b, kafka.InvalidRecord
	}
	return b, nil
}

// Producers returns the states of the partition's producers, by id.
func (l *Log) Producers() []bundle.Producer {
	t := l.lockTip()
	defer t.mu.Unlock()
	return recovery.CloneProducers(t.state.Producers)
}

// ExpireProducers forgets producers that appended nothing since before, now less
// producer.id.expiration.ms, and have no open transaction. Unlike Kafka it
// goes by when they appended, not by their records' timestamps, so that a producer of old
// records keeps its protection.
func (l *Log) ExpireProducers(before time.Time) {
	if !l.tip.expires(before.UnixMilli()) {
		return
	}
	t := l.lockTip()
	gone := t.expire(before.UnixMilli())
	t.mu.Unlock()
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state.Producers = slices.DeleteFunc(d.state.Producers, func(p bundle.Producer) bool {
		last, ok := gone[p.ID]
		return ok && p.TxnFirstOffset < 0 && lastOffsetOf(p) == last
	})
}

// expires tells whether a producer was silent since before.
func (t *tip) expires(before int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.seen, func(s seen) bool { return s.at <= before })
}

// expire forgets the producers that were silent since before, and returns
// the last batch's base offset of each. mu is held.
func (t *tip) expire(before int64) map[int64]kafka.Offset {
	gone := make(map[int64]kafka.Offset)
	t.state.Producers = slices.DeleteFunc(t.state.Producers, func(p bundle.Producer) bool {
		if i, ok := t.lastSeen(p.ID); p.TxnFirstOffset >= 0 || ok && t.seen[i].at > before {
			return false
		}
		gone[p.ID] = lastOffsetOf(p)
		return true
	})
	t.seen = slices.DeleteFunc(t.seen, func(s seen) bool { return recovery.FindProducer(t.state, s.producer) == nil })
	return gone
}

// lastOffsetOf returns the base offset of a producer's last batch, or -1.
func lastOffsetOf(p bundle.Producer) kafka.Offset {
	if n := len(p.Batches); n > 0 {
		return p.Batches[n-1].BaseOffset
	}
	return -1
}
