package partition

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

var testTP = kafka.TopicPartition{Topic: kafka.TopicID{1}, Partition: 3}

// failer is a test, rapid's or testing's.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// fakeStore is objects in memory; Read gives them in random pieces.
type fakeStore struct {
	mu   sync.Mutex
	objs map[string][]byte
	rng  *rand.Rand // nil: in one piece
	read int64      // bytes
}

func (f *fakeStore) put(key string, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objs == nil {
		f.objs = make(map[string][]byte)
	}
	f.objs[key] = b
}

func (f *fakeStore) remove(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.objs, key)
}

func (f *fakeStore) Prefetch(context.Context, []objcache.Range, *objcache.Arena) {}

func (f *fakeStore) Read(_ context.Context, key string, off, n int64, _ *objcache.Arena) ([][]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.objs[key]
	if !ok {
		return nil, objstore.ErrNotFound
	}
	if n > objcache.MaxRead {
		return nil, objcache.ErrRange
	}
	f.read += n
	b = b[off : off+n : off+n]
	if f.rng == nil {
		return [][]byte{b}, nil
	}
	var pieces [][]byte
	for len(b) > 0 {
		k := min(len(b), max(0, f.rng.IntN(200)-20)) // some are empty
		pieces = append(pieces, b[:k:k])
		b = b[k:]
	}
	return pieces, nil
}

// fakeWAL keeps entries until flush makes them durable.
type fakeWAL struct {
	mu      sync.Mutex
	store   *fakeStore
	waiting []wal.Entry
	objects int
	fail    error
	done    []bundle.Slice // what became durable, for recovery
}

func (w *fakeWAL) Append(e wal.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return w.fail
	}
	w.waiting = append(w.waiting, e)
	return nil
}

// flush puts the n oldest entries, all of one partition, in one object.
func (w *fakeWAL) flush(n int) {
	w.mu.Lock()
	n = min(n, len(w.waiting))
	entries := w.waiting[:n]
	w.waiting = w.waiting[n:]
	w.objects++
	key := fmt.Sprintf("wal/%020d", w.objects)
	w.mu.Unlock()
	if n == 0 {
		return
	}
	obj := []byte("header:") // of sorts
	s := bundle.Slice{Slot: entries[0].Slot, TP: entries[0].TP, Pos: int64(len(obj))}
	for _, e := range entries {
		b := e.Batch
		b.Pos = int64(len(obj))
		obj = append(obj, e.Data...)
		s.Batches = append(s.Batches, b)
	}
	s.Len = int64(len(obj)) - s.Pos
	w.store.put(key, obj)
	w.done = append(w.done, s)
	entries[0].Target.Durable(key, s)
	entries[0].Target.Announce()
}

func (w *fakeWAL) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

// fakeCold is sealed segments in memory.
type fakeCold struct {
	mu   sync.Mutex
	segs []fakeSegment
}

type fakeSegment struct {
	base, end kafka.Offset
	data      []byte
	aborted   []bundle.AbortedTxn
}

func (c *fakeCold) add(s fakeSegment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.segs = append(c.segs, s)
}

func (c *fakeCold) Read(_ context.Context, _ kafka.TopicPartition, from kafka.Offset, limit int64, _ *objcache.Arena) ([][]byte, kafka.Offset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.segs {
		if s.end <= from {
			continue
		}
		r := newRun([][]byte{s.data})
		lo, hi, next, err := r.cut(bounds{from: from, limit: s.end, max: limit, one: true}, mark{})
		return sub(r.bufs, lo, hi), next, err
	}
	return nil, from, objstore.ErrNotFound
}

func (c *fakeCold) each(fn func(b []byte, h record.Header) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.segs {
		_, more, err := walkRun([][]byte{s.data}, 0, func(h record.Header, pos int64) bool { return fn(s.data[pos:pos+int64(h.Size())], h) })
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (c *fakeCold) FindTimestamp(_ context.Context, _ kafka.TopicPartition, ts int64) (off kafka.Offset, rts int64, e kafka.LeaderEpoch, ok bool, err error) {
	walked := c.each(func(b []byte, h record.Header) bool {
		if h.MaxTimestamp >= ts {
			off, rts, ok, err = record.FindTimestamp(b, ts)
			e = h.LeaderEpoch
		}
		return !ok && err == nil
	})
	if err == nil {
		err = walked
	}
	return off, rts, e, ok, err
}

func (c *fakeCold) MaxTimestamp(context.Context, kafka.TopicPartition) (off kafka.Offset, ts int64, e kafka.LeaderEpoch, ok bool, err error) {
	walked := c.each(func(b []byte, h record.Header) bool {
		if !ok || h.MaxTimestamp > ts {
			off, ts, err = record.MaxTimestampOffset(b)
			e, ok = h.LeaderEpoch, true
		}
		return err == nil
	})
	if err == nil {
		err = walked
	}
	return off, ts, e, ok, err
}

func (c *fakeCold) Aborted(_ context.Context, _ kafka.TopicPartition, from, to kafka.Offset) ([]bundle.AbortedTxn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []bundle.AbortedTxn
	for _, s := range c.segs {
		out = append(out, touching(s.aborted, from, to)...)
	}
	return out, nil
}

// rig is a Log over fakes.
type rig struct {
	*Log
	shared Shared
	store  *fakeStore
	wal    *fakeWAL
	cold   *fakeCold
	cfg    config.Topic
	moves  int
	base   bundle.State // of the last checkpoint
}

func newRig(shared Shared) *rig {
	r := &rig{store: &fakeStore{}, cold: &fakeCold{}, shared: shared}
	r.wal = &fakeWAL{store: r.store}
	r.shared.WAL, r.shared.Cache, r.shared.Cold = r.wal, r.store, r.cold
	r.open(0, recovery.Tail{}, 0)
	return r
}

func (r *rig) open(epoch kafka.LeaderEpoch, tail recovery.Tail, start kafka.Offset) {
	r.Log = New(Options{Shared: &r.shared, TP: testTP, Topic: "t", Epoch: epoch, Config: func() config.Topic { return r.cfg }}, tail, start)
	r.base = recovery.CloneState(&tail.State)
}

// restart opens the log anew as recovery does: from the last checkpoint's state
// and the batches behind it, folded. What was not durable is gone.
func (r *rig) restart(t failer) {
	t.Helper()
	snap, st := r.Snapshot(), recovery.CloneState(&r.base)
	for _, s := range r.wal.done {
		if s.Batches[0].BaseOffset >= st.NextOffset {
			for _, b := range s.Batches {
				recovery.Fold(&st, b)
			}
		}
	}
	if st.NextOffset != snap.State.NextOffset || st.LastStable != snap.State.LastStable {
		t.Fatalf("recovered to %d, %d, was %d, %d", st.NextOffset, st.LastStable, snap.State.NextOffset, snap.State.LastStable)
	}
	if diff := cmp.Diff(snap.State.Producers, st.Producers, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("recovered producers differ: %s", diff)
	}
	st.SealedEnd, st.Aborted = snap.State.SealedEnd, snap.Aborted
	r.wal.waiting = nil
	r.open(r.Epoch()+1, recovery.Tail{State: st, Hot: snap.Hot}, r.Offsets().LogStart)
}

// bytes returns the objects' bytes of hot slices.
func (r *rig) bytes(refs []Ref) []byte {
	var b []byte
	for _, ref := range refs {
		b = append(b, r.store.objs[ref.Key][ref.Pos:ref.Pos+ref.Len]...)
	}
	return b
}

// seal makes a segment of all that is hot and durable, if anything is.
func (r *rig) seal() bool {
	s := r.Snapshot()
	if len(s.Hot) == 0 {
		return false
	}
	r.cold.add(fakeSegment{base: s.Hot[0].Base, end: s.State.NextOffset, data: r.bytes(s.Hot), aborted: s.Aborted})
	r.Sealed(segmentOf(s.State.NextOffset))
	for _, ref := range s.Hot {
		r.store.remove(ref.Key)
	}
	return true
}

// move copies the hot slices to one checkpoint object.
func (r *rig) move() {
	s := r.Snapshot()
	if len(s.Hot) == 0 {
		return
	}
	r.moves++
	key := fmt.Sprintf("ckpt/%020d", r.moves)
	data := append(make([]byte, 11), r.bytes(s.Hot)...)
	r.store.put(key, data)
	m := bundle.Slice{TP: testTP, Pos: 11, Len: int64(len(data) - 11)}
	if _, _, err := walkRun([][]byte{data[11:]}, 11, func(h record.Header, pos int64) bool {
		m.Batches = append(m.Batches, bundle.Batch{BaseOffset: h.BaseOffset, LastOffsetDelta: h.LastOffsetDelta, Pos: pos, Len: int32(h.Size()), MaxTimestamp: h.MaxTimestamp})
		return true
	}); err != nil {
		panic(err)
	}
	r.Moved([]bundle.Slice{m}, key)
	r.base = s.State
	for _, ref := range s.Hot {
		r.store.remove(ref.Key)
	}
}

// readFar is Read by another broker, which is told where the records lie.
func readFar(l *Log, from kafka.Offset, limit int, iso kafka.Isolation, a *objcache.Arena) (Result, error) {
	ctx := context.Background()
	return Replica{TP: l.o.TP, Cache: l.o.Cache, Cold: l.o.Cold}.Read(ctx, from, limit, iso, a, func(from kafka.Offset) (Place, error) {
		p, err := l.Locate(ctx, from, limit, iso)
		if err != nil {
			return p, err
		}
		b, err := json.Marshal(p)
		if err != nil {
			return p, err
		}
		return ParsePlace(b)
	})
}

// readAll reads a log from an offset to the isolation level's end.
func (r *rig) readAll(t failer, from kafka.Offset, limit int, iso kafka.Isolation) []byte {
	t.Helper()
	var out []byte
	for {
		a := objcache.NewArena()
		res, err := r.Read(context.Background(), from, limit, iso, a)
		if err != nil {
			t.Fatalf("read at %d: %v", from, err)
		}
		if len(res.Bufs) == 0 {
			return out
		}
		var b []byte
		for _, p := range res.Bufs {
			b = append(b, p...)
		}
		out = append(out, b...)
		from = lastOffset(t, b) + 1
		a.Release()
	}
}

func lastOffset(t failer, b []byte) (last kafka.Offset) {
	t.Helper()
	last = -1
	next, _, err := walkRun([][]byte{b}, 0, func(h record.Header, _ int64) bool { last = h.LastOffset(); return true })
	if err != nil || next != int64(len(b)) || last < 0 {
		t.Fatalf("read is no run of whole batches: %d of %d bytes, %v", next, len(b), err)
	}
	return last
}

// spec describes a test's batch.
type spec struct {
	n     int // records
	size  int // of each value
	pid   int64
	epoch int16
	seq   int32
	txn   bool
	ts    int64 // of the first record
}

// build encodes a batch of records with ascending timestamps.
func build(s spec) ([]byte, record.Header) {
	b := record.NewBuilder(record.None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional = s.pid, s.epoch, s.seq, s.txn
	value := make([]byte, s.size)
	for i := range s.n {
		for j := range value {
			value[j] = byte(s.ts + int64(i+j))
		}
		b.Append(s.ts+int64(i), nil, value)
	}
	raw, err := b.Bytes()
	return withHeader(raw, err)
}

// marker encodes a control batch that ends a transaction.
func marker(pid int64, epoch int16, commit bool, coord int32, ts int64) ([]byte, record.Header) {
	return withHeader(record.Marker(pid, epoch, commit, coord, time.UnixMilli(ts)))
}

func withHeader(b []byte, err error) ([]byte, record.Header) {
	if err != nil {
		panic(err)
	}
	h, err := record.ParseHeader(b)
	if err != nil {
		panic(err)
	}
	return b, h
}

// plain is a batch without a producer.
func plain(n, size int, ts int64) ([]byte, record.Header) {
	return build(spec{n: n, size: size, pid: -1, epoch: -1, seq: -1, ts: ts})
}

func segmentOf(end kafka.Offset) catalog.Segment { return catalog.Segment{TP: testTP, End: end} }

// discard is a WAL that keeps nothing.
type discard struct{}

func (discard) Append(wal.Entry) error { return nil }
