package partition

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// TestRest: a tip rests when nothing is on its way and nobody asked since the last time; what is asked then is answered as before.
func TestRest(t *testing.T) {
	r := newRig(Shared{})
	rests := func(want bool, when string) {
		t.Helper()
		r.Rest()
		r.Rest()
		if got := r.tip.state == nil; got != want {
			t.Errorf("rests: %v %s", got, when)
		}
	}
	rests(true, "when nothing was appended")
	mustAppend(t, r, spec{n: 2, pid: 1})
	mustAppend(t, r, spec{n: 2, pid: 2, txn: true})
	rests(false, "while two batches are not durable")
	r.wal.flush(1)
	rests(false, "while one is not durable")
	if o := r.Offsets(); o.Next != 4 || o.HighWatermark != 2 {
		t.Errorf("offsets %+v", o)
	}
	r.wal.flush(1)
	r.InTxn(2, 0)
	if r.Rest(); r.tip.state == nil {
		t.Error("rests, and was asked since the last time")
	}
	rests(true, "when all is durable")
	if o := r.Offsets(); o.Next != 4 || o.LastStable != 2 || r.tip.state != nil {
		t.Errorf("offsets %+v", o)
	}
	if a := mustAppend(t, r, spec{n: 2, pid: 1}); !a.Duplicate || a.Base != 0 {
		t.Errorf("a duplicate of before the rest: %+v", a)
	}
	rests(true, "behind a duplicate")
	if !r.InTxn(2, 0) {
		t.Error("the open transaction is forgotten")
	}
	rests(true, "behind a question")
	b, h := build(spec{n: 1, pid: 1, seq: 3})
	if _, err := r.Append(b, h); !errors.Is(err, kafka.OutOfOrderSequenceNumber) {
		t.Errorf("a gap behind the rest: %v", err)
	}
	if a := mustAppend(t, r, spec{n: 1, pid: 1, seq: 2}); a.Base != 4 {
		t.Errorf("behind the rest: %+v", a)
	}
	rests(false, "while the last is not durable")
}

// TestRestAmidAppends: what is appended while a log goes to rest is in it.
func TestRestAmidAppends(t *testing.T) {
	r := newRig(Shared{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.Rest()
			}
		}
	})
	for i := range int32(2000) {
		if a := mustAppend(t, r, spec{n: 1, pid: 1, seq: i}); a.Duplicate || a.Base != kafka.Offset(i) {
			t.Fatalf("append %d: %+v", i, a)
		}
		if i%3 > 0 {
			r.wal.flush(1)
		}
	}
	close(stop)
	wg.Wait()
}

// TestHoldsLittle: a broker has thousands of logs that nobody uses.
func TestHoldsLittle(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	tail := recovery.Tail{
		State: bundle.State{NextOffset: 8, LastStable: 8, Epochs: []bundle.EpochStart{{}}, Producers: []bundle.Producer{{ID: 1, TxnFirstOffset: -1, Batches: make([]bundle.ProducerBatch, 1)}}},
		Hot:   []Ref{{Key: "checkpoint", Len: 1000, Last: 7}},
	}
	shared := &Shared{}
	logs := make([]*Log, 4000)
	before := heap()
	for i := range logs {
		logs[i] = New(Options{Shared: shared}, tail, 0)
	}
	if each := (heap() - before) / uint64(len(logs)); each > 640 {
		t.Errorf("a log with a producer and a slice holds %d bytes", each)
	}
	runtime.KeepAlive(logs)
}
