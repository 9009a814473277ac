package cold

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// sealFrames produces batches that take a frame each, in segments of n.
func (r *rig) sealFrames(t failer, segments, n int) {
	for range segments {
		for range n {
			r.produce(t, batch{times: []int64{1}, size: 500 << 10})
		}
		r.seal(t)
	}
}

// running runs the Reader in a bubble for the time of fn.
func (r *rig) running(t *testing.T, fn func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	fn()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.Context(), Options{ReadAhead: 3, RAMBytes: 64 << 20})
		r.sealFrames(t, 2, 6)
		r.running(t, func() {
			r.mustRead(t, 0, 1)
			synctest.Wait()
			if n := r.count0(); n.loads != 4 || n.ahead != 3 {
				t.Errorf("%+v, want a frame and three ahead", n)
			}
			r.mustRead(t, 3, 1) // into the next segment, whose entry is on the page
			synctest.Wait()
			if n := r.count0(); n.loads != 7 || n.ahead != 6 {
				t.Errorf("%+v, want three more ahead", n)
			}
			r.mustReadAll(t, 0, 1)
			synctest.Wait()
			if n := r.count0(); n.loads != 12 {
				t.Errorf("%+v, want each of twelve frames loaded once", n)
			}
			if len(r.ahead.asked) != 0 {
				t.Errorf("%d frames are still asked for", len(r.ahead.asked))
			}
		})
	})
}

// What is fetched ahead takes half of the room at most, and is not dropped
// before it is read.
func TestReadAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.Context(), Options{ReadAhead: 8, RAMBytes: 3 << 20})
		r.sealFrames(t, 1, 12)
		r.running(t, func() {
			r.mustRead(t, 0, 1)
			synctest.Wait()
			if n := r.count0(); n.ahead != 3 {
				t.Errorf("%d frames ahead in half of 3 MiB", n.ahead)
			}
			for from := kafka.Offset(1); from < 12; from++ {
				r.mustRead(t, from, 1)
				synctest.Wait()
				if r.Reader.frames.size() > 3<<20 {
					t.Fatalf("%d bytes kept", r.Reader.frames.size())
				}
			}
			if n := r.count0(); n.loads != 12 {
				t.Errorf("%d loads of twelve frames", n.loads)
			}
		})
	})
}

// Readers of the moment share a frame's one load; one that leaves does not
// take it from the others.
func TestSharedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.Context(), Options{})
		r.sealFrames(t, 1, 1)
		r.store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		first, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := r.Read(first, r.tp, 0, 1, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("reader that left: %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() { r.mustRead(t, 0, 1) })
		}
		time.Sleep(1500 * time.Millisecond) // in the bubble: the footer is there, the frame is under way
		leave()
		wg.Wait()
		if n := r.count0(); n.loads != 1 {
			t.Errorf("%d loads, want 1", n.loads)
		}
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.Context(), Options{})
		r.sealFrames(t, 1, 5)
		r.store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		r.running(t, func() {
			r.mustRead(t, 0, 1)
			synctest.Wait() // the workers are reading
		})
		r.mustReadAll(t, 0, 1) // what they left is read by whoever wants it
	})
}
