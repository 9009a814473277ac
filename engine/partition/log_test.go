package partition

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/recovery"
)

func mustAppend(t *testing.T, r *rig, s spec) Appended {
	t.Helper()
	b, h := build(s)
	a, err := r.Append(b, h)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAwaitDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Shared{})
		first := mustAppend(t, r, spec{n: 2, pid: -1})
		second := mustAppend(t, r, spec{n: 2, pid: -1})
		results := make(chan error, 3)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() { results <- r.AwaitDurable(ctx, first.Last) }()
		synctest.Wait()
		r.wal.flush(1)
		synctest.Wait()
		if err := <-results; err != nil {
			t.Fatal(err)
		}
		go func() { results <- r.AwaitDurable(ctx, second.Last) }()
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("after the deadline: %v", err)
		}
		go func() { results <- r.AwaitDurable(t.Context(), second.Last) }()
		changed := r.Changed()
		synctest.Wait()
		r.Close(kafka.NotLeaderOrFollower)
		if err := <-results; err != kafka.NotLeaderOrFollower {
			t.Fatalf("closed: %v", err)
		}
		<-changed
		<-r.Changed()
		if err := r.AwaitDurable(t.Context(), first.Last); err != nil {
			t.Fatalf("durable before it was closed: %v", err)
		}
	})
}

func TestClosed(t *testing.T) {
	r := newRig(Shared{})
	r.Close(kafka.UnknownTopicOrPartition)
	b, h := plain(1, 1, 0)
	if _, err := r.Append(b, h); err != kafka.UnknownTopicOrPartition {
		t.Errorf("append: %v", err)
	}
	if _, err := r.Read(t.Context(), 0, 1, 0, nil); err != kafka.UnknownTopicOrPartition {
		t.Errorf("read: %v", err)
	}
	if _, _, _, err := r.ListOffset(t.Context(), 0, 0); err != kafka.UnknownTopicOrPartition {
		t.Errorf("list offsets: %v", err)
	}
}

// TestReadsWhatItNeeds reads in the middle of a slice of 16 MiB, one that the
// WAL brought and one that recovery did.
func TestReadsWhatItNeeds(t *testing.T) {
	r := newRig(Shared{})
	for i := range 4096 {
		mustAppend(t, r, spec{n: 1, size: 4000, pid: -1, ts: int64(i)})
	}
	r.wal.flush(flushed)
	for _, when := range []string{"written", "recovered"} {
		if when == "recovered" {
			r.restart(t)
			r.readAll(t, 4000, 1<<20, 0) // finds the marks
		}
		r.store.read = 0
		res, err := r.Read(t.Context(), 2222, 100_000, 0, objcache.NewArena())
		if err != nil {
			t.Fatal(err)
		}
		got := bytes.Join(res.Bufs, nil)
		if len(got) < 90_000 || len(got) > 100_000 || lastOffset(t, got) != 2222+kafka.Offset(len(got)/4070)-1 {
			t.Errorf("%s: got %d bytes", when, len(got))
		}
		if r.store.read > 100_000+3*markBytes {
			t.Errorf("%s: read %d bytes of the object", when, r.store.read)
		}
	}
}

// TestStableInLongSlice: a transaction is open in the middle of a long slice.
func TestStableInLongSlice(t *testing.T) {
	r := newRig(Shared{})
	for i := range 300 {
		s := spec{n: 1, size: 4000, pid: -1, ts: int64(i)}
		if i == 150 {
			s.pid, s.txn = 1, true
		}
		mustAppend(t, r, s)
	}
	r.wal.flush(flushed)
	got := r.readAll(t, 140, 1<<20, kafka.ReadCommitted)
	if last := lastOffset(t, got); last != 149 {
		t.Errorf("read_committed to %d", last)
	}
}

// TestEpochsWithoutBatches: only epochs in which something was written are kept.
func TestEpochsWithoutBatches(t *testing.T) {
	r := newRig(Shared{})
	r.open(3, recovery.Tail{}, 0)
	mustAppend(t, r, spec{n: 4, pid: -1})
	r.wal.flush(1)
	for range 5 {
		r.move()
		r.restart(t)
		mustAppend(t, r, spec{n: 1, pid: -1}) // lost
	}
	want := []bundle.EpochStart{{Epoch: 3, Start: 0}, {Epoch: 8, Start: 4}}
	if got := r.Snapshot().State.Epochs; !slices.Equal(got, want) {
		t.Errorf("epochs %v", got)
	}
	for _, tt := range []struct {
		ask, epoch kafka.LeaderEpoch
		end        kafka.Offset
	}{{-1, -1, -1}, {0, 0, 0}, {3, 3, 4}, {5, 3, 4}, {8, 8, 4}, {9, -1, -1}} {
		if e, end := r.EndOffsetForEpoch(tt.ask); e != tt.epoch || end != tt.end {
			t.Errorf("epoch %d: %d ends at %d", tt.ask, e, end)
		}
	}
}

// TestMissingObject: only bytes that are missing again after looking anew
// are a storage error.
func TestMissingObject(t *testing.T) {
	r := newRig(Shared{})
	mustAppend(t, r, spec{n: 1, pid: -1})
	r.wal.flush(1)
	mustAppend(t, r, spec{n: 1, pid: -1})
	r.wal.flush(1)
	hot := r.Snapshot().Hot
	r.store.remove(hot[1].Key)
	res, err := r.Read(t.Context(), 0, 1<<20, 0, nil)
	if err != nil || lastOffset(t, bytes.Join(res.Bufs, nil)) != 0 {
		t.Fatalf("what is there before: %v", err)
	}
	if _, err := r.Read(t.Context(), 1, 1<<20, 0, nil); !errors.Is(err, kafka.KafkaStorageError) {
		t.Fatalf("got %v", err)
	}
	if _, _, _, err := r.ListOffset(t.Context(), MaxTimestamp, 0); err != nil {
		t.Fatalf("lookup in the first slice: %v", err)
	}
}

// TestReadersWhileSealing reads everything again and again while batches are appended,
// made durable, moved and sealed under the readers.
func TestReadersWhileSealing(t *testing.T) {
	r := newRig(Shared{})
	var mu sync.Mutex // the log's bytes so far
	var want []byte
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				n := len(want)
				mu.Unlock()
				got := r.readAll(t, 0, 5000, kafka.ReadCommitted)
				mu.Lock()
				if len(got) < n || !bytes.HasPrefix(want, got) {
					t.Errorf("read %d bytes that are not the log's %d", len(got), len(want))
				}
				mu.Unlock()
			}
		})
	}
	for i := range 400 {
		b, h := build(spec{n: 1 + i%3, size: i % 700, pid: 7, seq: r.expected(7), ts: int64(i)})
		if _, err := r.Append(b, h); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		want = append(want, b...)
		r.wal.flush(flushed)
		mu.Unlock()
		switch {
		case i%50 == 49:
			r.seal()
		case i%17 == 16:
			r.move()
		}
	}
	close(stop)
	wg.Wait()
	if got := r.readAll(t, 0, 1<<20, 0); !bytes.Equal(got, want) {
		t.Fatal("the log's bytes changed")
	}
}

func (r *rig) expected(pid int64) int32 {
	for _, p := range r.Producers() {
		if p.ID == pid {
			return expectedSequence(&p, p.Epoch)
		}
	}
	return 0
}

func TestMovedAfterSealAndLogStart(t *testing.T) {
	r := newRig(Shared{})
	for i := range 6 {
		mustAppend(t, r, spec{n: 2, size: 20, pid: -1, ts: int64(i)})
		r.wal.flush(1)
	}
	snap, want := r.Snapshot(), r.readAll(t, 4, 1<<20, 0)
	r.SetLogStart(5) // the slices [0,1] and [2,3] go
	data := r.bytes(snap.Hot)
	r.store.put("ckpt/1", data)
	m := bundle.Slice{Len: int64(len(data))}
	for i := range 6 {
		size := int64(len(data) / 6)
		m.Batches = append(m.Batches, bundle.Batch{BaseOffset: kafka.Offset(2 * i), LastOffsetDelta: 1, Pos: int64(i) * size, Len: int32(size)})
	}
	r.Moved([]bundle.Slice{m}, "ckpt/1")
	hot := r.Snapshot().Hot
	if len(hot) != 1 || hot[0].Base != 4 || hot[0].Last != 11 || hot[0].Key != "ckpt/1" {
		t.Fatalf("got %+v", hot)
	}
	if bytes, n := r.Size(); bytes != int64(len(want)) || n != 1 {
		t.Errorf("size %d in %d", bytes, n)
	}
	if got := r.readAll(t, 5, 1<<20, 0); !bytes.Equal(got, want) {
		t.Error("other bytes")
	}
}

// TestMovedOfSessions: in a checkpoint, what several WAL objects of one session had becomes one slice, and what another session
// had another: RAM may not have it.
func TestMovedOfSessions(t *testing.T) {
	var x index
	var moved []bundle.Slice
	for i, key := range []string{"wal/1/0/7", "wal/1/0/8", "wal/1/1/0", "wal/1/1/1", "wal/2/1/1"} {
		b := []bundle.Batch{{BaseOffset: kafka.Offset(i), Pos: int64(10 * i), Len: 10}}
		s := bundle.Slice{Pos: int64(10 * i), Len: 10, Batches: b}
		x.push(newSlice(key, s))
		moved = append(moved, s)
	}
	for _, m := range x.joinMoved(moved) {
		x.replace("ckpt/1/1/0", m)
	}
	var got [][2]kafka.Offset
	for _, s := range x.slices {
		got = append(got, [2]kafka.Offset{s.Base, s.Last})
	}
	if diff := cmp.Diff([][2]kafka.Offset{{0, 1}, {2, 3}, {4, 4}}, got); diff != "" {
		t.Errorf("slices (-want +got):\n%s", diff)
	}
}

func TestRollDue(t *testing.T) {
	cfg := config.Topic{Delete: true, RetentionMs: 1000, SegmentBytes: 100, SegmentMs: 10_000}
	forever, compacted := cfg, cfg
	forever.RetentionMs = -1
	compacted.Delete, compacted.Compact, compacted.MaxCompactionLagMs = false, true, math.MaxInt64
	soon := compacted
	soon.MaxCompactionLagMs = 2000
	now := time.UnixMilli(100_000)
	fresh := now.UnixMilli() - 1000
	tests := []struct {
		name string
		tail tail
		cfg  config.Topic
		own  int64
		want bool
	}{
		{"young and small", tail{99, 1, 9999 * time.Millisecond, fresh}, cfg, 0, false},
		{"segment.bytes", tail{100, 1, 0, fresh}, cfg, 0, true},
		{"segment.ms", tail{1, 1, 10 * time.Second, fresh}, cfg, 0, true},
		{"slices", tail{1, rollSlices, 0, fresh}, cfg, 0, true},
		{"checkpoint, below", tail{49, 1, 0, fresh}, cfg, 50, false},
		{"checkpoint, reached", tail{50, 1, 0, fresh}, cfg, 50, true},
		{"expired", tail{1, 1, time.Second, fresh - 1}, cfg, 0, true},
		{"expired when it came", tail{1, 1, 999 * time.Millisecond, fresh - 1}, cfg, 0, false},
		{"expired, kept for ever", tail{1, 1, time.Second, fresh - 1}, forever, 0, false},
		{"expired, not deleted", tail{1, 1, time.Second, fresh - 1}, compacted, 0, false},
		{"max.compaction.lag.ms", tail{1, 1, 2 * time.Second, fresh}, soon, 0, true},
		{"before max.compaction.lag.ms", tail{1, 1, 1999 * time.Millisecond, fresh}, soon, 0, false},
		{"no timestamps", tail{1, 1, time.Second, 0}, cfg, 0, false},
	}
	for _, tt := range tests {
		if got := rollDue(tt.tail, tt.cfg, now, tt.own, time.Second); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	r := newRig(Shared{})
	if r.RollDue(now, 1, 0) {
		t.Error("an empty tail is due")
	}
}

func TestExpireProducers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Shared{})
		mustAppend(t, r, spec{n: 1, pid: 1, ts: time.Now().UnixMilli()})
		mustAppend(t, r, spec{n: 1, pid: 2, txn: true})
		r.wal.flush(flushed)
		time.Sleep(30 * time.Minute)
		mustAppend(t, r, spec{n: 1, pid: 3, ts: 5}) // an old record, just written
		mustAppend(t, r, spec{n: 1, pid: 4})        // not durable when it expires
		r.wal.flush(1)
		time.Sleep(30 * time.Minute)
		r.ExpireProducers(time.Now().Add(-time.Hour))
		if got := ids(r.Producers()); len(got) != 3 || got[0] != 2 || got[1] != 3 {
			t.Errorf("producers %v", got)
		}
		if got := ids(r.Snapshot().State.Producers); len(got) != 2 || got[0] != 2 || got[1] != 3 {
			t.Errorf("durable producers %v", got)
		}
		time.Sleep(time.Hour)
		r.ExpireProducers(time.Now().Add(-time.Hour))
		r.wal.flush(1)
		if a := mustAppend(t, r, spec{n: 1, pid: 4, seq: 9}); a.Duplicate {
			t.Error("an expired producer was remembered")
		}
		if len(r.tip.seen) != 2 {
			t.Errorf("seen %v", r.tip.seen)
		}
	})
}

// TestSeenByTimestamps: behind it producers expire by their last timestamps.
func TestSeenByTimestamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UnixMilli()
		st := bundle.State{NextOffset: 3, LastStable: 3, Producers: []bundle.Producer{
			{ID: 1, LastTimestamp: now - time.Hour.Milliseconds(), TxnFirstOffset: -1},
			{ID: 2, LastTimestamp: now - time.Minute.Milliseconds(), TxnFirstOffset: -1},
			{ID: 3, LastTimestamp: now + time.Hour.Milliseconds(), TxnFirstOffset: -1},
		}}
		r := newRig(Shared{})
		r.open(0, recovery.Tail{State: st}, 3)
		expire := func(want ...int64) {
			t.Helper()
			r.ExpireProducers(time.Now().Add(-30 * time.Minute))
			if got := ids(r.Producers()); !slices.Equal(got, want) {
				t.Errorf("producers %v, not %v", got, want)
			}
		}
		expire(1, 2, 3)
		r.SeenByTimestamps()
		expire(2, 3)
		time.Sleep(30 * time.Minute)
		expire()
	})
}

func ids(ps []bundle.Producer) (out []int64) {
	for _, p := range ps {
		out = append(out, p.ID)
	}
	return out
}

func TestManyProducers(t *testing.T) {
	st := bundle.State{}
	for i := range int64(recovery.MaxProducers + 10) {
		recovery.Fold(&st, bundle.Batch{BaseOffset: st.NextOffset, ProducerID: i, MaxTimestamp: i, ControlType: -1, Attributes: int16(max(0, 1-i)) << 4})
	}
	if n := len(st.Producers); n > recovery.MaxProducers || n < recovery.MaxProducers*14/16 {
		t.Fatalf("%d producers", n)
	}
	if st.Producers[0].ID != 0 || st.LastStable != 0 {
		t.Error("the open transaction was forgotten")
	}
	if recovery.FindProducer(&st, recovery.MaxProducers+9) == nil || recovery.FindProducer(&st, 1) != nil {
		t.Error("not the oldest were forgotten")
	}
}

func TestSet(t *testing.T) {
	s := NewSet()
	metrics := NewMetrics(prometheus.NewRegistry(), s)
	open := func(p int32) *Log {
		return New(Options{TP: kafka.TopicPartition{Partition: p}, Shared: &Shared{WAL: &fakeWAL{}, Metrics: metrics}}, recovery.Tail{}, 0)
	}
	a, b := open(1), open(2)
	s.Add(a, b)
	if got, ok := s.Get(a.TP()); !ok || got != a || s.Len() != 2 || len(s.All()) != 2 {
		t.Error("not all there")
	}
	if out := s.Remove(a.TP(), kafka.TopicPartition{Partition: 9}); len(out) != 1 || out[0] != a {
		t.Errorf("removed %v", out)
	}
	if _, ok := s.Get(a.TP()); ok || s.Len() != 1 {
		t.Error("still there")
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	r := newRig(Shared{Metrics: NewMetrics(nil, nil)})
	r.wal.waiting = nil
	r.Log.o.WAL = discard{}
	b, h := build(spec{n: 10, size: 100, pid: 1})
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := r.Append(b, h); err != nil {
			t.Fatal(err)
		}
		h.BaseSequence += 10
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
