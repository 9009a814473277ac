package objcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// content returns an object's bytes, a function of its key.
func content(key string, n int) []byte {
	var seed [32]byte
	copy(seed[:], key)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

func put(t testing.TB, s *memstore.Store, key string, n int) []byte {
	t.Helper()
	b := content(key, n)
	if err := s.Put(context.Background(), key, objstore.Buffers{b}); err != nil {
		t.Fatal(err)
	}
	return b
}

func newCache(t testing.TB, o Options) *Cache {
	t.Helper()
	if o.Store == nil {
		o.Store = memstore.New()
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func join(bufs [][]byte) []byte { return bytes.Join(bufs, nil) }

func TestArenaClasses(t *testing.T) {
	last := 0
	for _, n := range []int{0, 1, 4096, 4097, 6144, 6145, 8192, 8193, 1 << 20, 1<<20 + 1, 3 << 19, 3<<19 + 1, 33 << 20, 48 << 20, 49 << 20, 1 << 27} {
		class, size := classFor(n)
		if size < n || class >= classes {
			t.Errorf("classFor(%d) = %d, %d", n, class, size)
		}
		if class >= 0 && (class < last || n > 4096 && size > n*3/2+1) {
			t.Errorf("classFor(%d) = %d, %d: wasteful, or out of order", n, class, size)
		}
		last = max(class, 0)
		if got := newBuffer(n); len(got.b) != n || cap(got.b) != size {
			t.Errorf("newBuffer(%d) has %d of %d bytes", n, len(got.b), cap(got.b))
		}
	}
	for class := range classes { // each class is that of its own size
		size := 1 << (minClassBits + class/2)
		if class%2 == 1 {
			size = size * 3 / 2
		}
		if c, s := classFor(size); c != class || s != size {
			t.Errorf("classFor(%d) = %d, %d; want %d", size, c, s, class)
		}
	}
	a := NewArena()
	x := a.Alloc(100)
	b := a.held[0].buf
	a.Release()
	if b.refs.Load() != 0 || len(a.held) != 0 || len(x) != 100 {
		t.Errorf("after Release: %d holders", b.refs.Load())
	}
}

// TestFillIsNotCopied: a read that RAM can serve returns the very memory.
func TestFillIsNotCopied(t *testing.T) {
	store := memstore.New()
	c := newCache(t, Options{Store: store, RAMBytes: 1 << 20})
	a, b, d := []byte("hello"), []byte("world"), []byte("tail")
	c.Fill("k", []Piece{{Off: 10, Data: a}, {Off: 15}, {Off: 15, Data: b}, {Off: 30, Data: d}})
	bufs, err := c.Read(t.Context(), "k", 12, 5, NewArena())
	if err != nil || len(bufs) != 2 || &bufs[0][0] != &a[2] || &bufs[1][0] != &b[0] || string(join(bufs)) != "llowo" {
		t.Fatalf("Read: %q, %v", bufs, err)
	}
	for _, r := range [][2]int64{{9, 2}, {19, 2}, {15, 16}, {33, 2}, {0, 1}, {100, 1}} { // not all there
		if _, err := c.Read(t.Context(), "k", r[0], r[1], nil); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("Read(%d, %d): %v", r[0], r[1], err)
		}
	}
	if bufs, err := c.Read(t.Context(), "k", 30, 4, nil); err != nil || string(join(bufs)) != "tail" {
		t.Errorf("Read of the last piece: %q, %v", bufs, err)
	}
	c.Forget("k")
	if _, err := c.Read(t.Context(), "k", 30, 4, nil); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("Read after Forget: %v", err)
	}
}

func TestRAMIsBounded(t *testing.T) {
	const size = 1000
	c := newCache(t, Options{RAMBytes: 5 * (size + pieceOverhead)})
	for i := range 20 {
		c.Fill(fmt.Sprint(i), []Piece{{Data: make([]byte, size)}})
		for j := range i + 1 {
			_, err := c.Read(t.Context(), fmt.Sprint(j), 0, size, nil)
			if got, want := err == nil, j > i-5; got != want {
				t.Fatalf("after fill %d, %d is there: %v, want %v", i, j, got, want)
			}
		}
	}
	c.Fill("19", []Piece{{Data: make([]byte, size)}}) // again: in place of the first
	c.Fill("big", []Piece{{Data: make([]byte, 100*size)}})
	want := Stats{RAMBytes: 5 * (size + pieceOverhead), RAMObjects: 5, Evictions: 15}
	got := c.Stats()
	got = Stats{RAMBytes: got.RAMBytes, RAMObjects: got.RAMObjects, Evictions: got.Evictions}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Stats (-want +got):\n%s", diff)
	}
}

// TestCarry: what an object was made of is read from RAM in it and where it was, counts once, and leaves in its turn.
func TestCarry(t *testing.T) {
	const size = 1000
	c := newCache(t, Options{RAMBytes: 4*size + 10*pieceOverhead})
	has := func(want ...string) {
		t.Helper()
		for _, key := range []string{"a", "b", "ckpt", "c", "d", "e", "f"} {
			_, err := c.Read(t.Context(), key, 100, 10, nil)
			if got := err == nil; got != slices.Contains(want, key) {
				t.Errorf("%s is there: %v", key, got)
			}
		}
	}
	a, b := content("a", size), content("b", size)
	c.Fill("a", []Piece{{Off: 0, Data: a[:500]}, {Off: 500, Data: a[500:]}})
	c.Fill("b", []Piece{{Off: 0, Data: b}})
	c.Fill("c", []Piece{{Data: make([]byte, size)}})
	c.Carry("ckpt", []Carried{{Range{"b", 0, 400}, 0}, {Range{"gone", 0, 9}, 400}, {Range{"a", 100, 800}, 409}, {Range{"a", 900, 200}, 1209}})
	if got := c.Stats(); got.RAMBytes != 3*size+7*pieceOverhead || got.RAMObjects != 4 || got.Evictions != 0 {
		t.Errorf("after Carry: %+v", got)
	}
	for _, tt := range []struct {
		off, n int64
		want   []byte
	}{{0, 400, b[:400]}, {409, 800, a[100:900]}, {500, 300, a[191:491]}} {
		bufs, err := c.Read(t.Context(), "ckpt", tt.off, tt.n, nil)
		if err != nil || !bytes.Equal(join(bufs), tt.want) {
			t.Errorf("Read of %d at %d: %v", tt.n, tt.off, err)
		}
	}
	for _, off := range []int64{400, 1209} {
		if _, err := c.Read(t.Context(), "ckpt", off, 1, nil); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("Read at %d: %v", off, err)
		}
	}
	has("a", "b", "ckpt", "c")
	c.Fill("d", []Piece{{Data: make([]byte, size)}})
	has("a", "b", "ckpt", "c", "d")
	c.Fill("e", []Piece{{Data: make([]byte, size)}})
	has("ckpt", "c", "d", "e")
	c.Fill("f", []Piece{{Data: make([]byte, size)}})
	has("c", "d", "e", "f")
	c.Carry("none", []Carried{{Range{"a", 0, 1}, 0}})
	for _, key := range []string{"c", "d", "e", "f"} {
		c.Forget(key)
	}
	if got := c.Stats(); got.RAMBytes != 0 || got.RAMObjects != 0 {
		t.Errorf("at last: %+v", got)
	}
}

func TestReadErrors(t *testing.T) {
	store := memstore.New()
	c := newCache(t, Options{Store: store, RAMBytes: 1 << 20})
	put(t, store, "k", 100)
	tests := []struct {
		key    string
		off, n int64
		want   error
	}{
		{"none", 0, 1, objstore.ErrNotFound},
		{"k", 0, 101, io.ErrUnexpectedEOF},
		{"k", 100, 1, io.ErrUnexpectedEOF},
		{"k", 1 << 40, 1, io.ErrUnexpectedEOF},
		{"k", -1, 1, ErrRange},
		{"k", 0, -1, ErrRange},
		{"k", 0, MaxRead + 1, ErrRange},
		{"k", 1<<63 - 1, 2, ErrRange},
		{"k", 0, 0, nil},
		{"k", 0, 100, nil},
	}
	for _, tt := range tests {
		a := NewArena()
		bufs, err := c.Read(t.Context(), tt.key, tt.off, tt.n, a)
		if !errors.Is(err, tt.want) || err == nil && int64(len(join(bufs))) != tt.n {
			t.Errorf("Read(%s, %d, %d): %d buffers, %v; want %v", tt.key, tt.off, tt.n, len(bufs), err, tt.want)
		}
		a.Release()
	}
}

// TestPrefetch: what is near is read together, the rest at the same time, and
// the Reads that follow need no store.
func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		c := newCache(t, Options{Store: store, RAMBytes: 1 << 20})
		want := put(t, store, "k", 900_000)
		put(t, store, "l", 10)
		c.Fill("ram", []Piece{{Data: want[:1000]}})
		reads := 0
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			reads++
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		a := NewArena()
		begin := time.Now()
		ranges := []Range{{"k", 170_000, 100_000}, {"ram", 0, 1000}, {"k", 1, 150_000}, {"gone", 0, 1}, {"k", 600_000, 300_000}, {"l", 0, 10}}
		c.Prefetch(t.Context(), slices.Clone(ranges), a)
		if took := time.Since(begin); took != time.Second || reads != 4 {
			t.Errorf("%d reads in %v, want 4 in the time of one, 1s", reads, took)
		}
		for _, r := range ranges {
			bufs, err := c.Read(t.Context(), r.Key, r.Off, r.N, a)
			switch {
			case r.Key == "gone":
				if !errors.Is(err, objstore.ErrNotFound) {
					t.Errorf("Read(%v): %v", r, err)
				}
			case err != nil:
				t.Errorf("Read(%v): %v", r, err)
			case r.Key != "l" && !bytes.Equal(join(bufs), want[r.Off:r.Off+r.N]):
				t.Errorf("Read(%v): other bytes", r)
			}
		}
		if reads != 5 { // and the one of what is gone
			t.Errorf("%d reads, want 5", reads)
		}
		a.Release()
		if a.find(ranges[0]) != nil {
			t.Error("an arena remembers what it gave back")
		}
	})
}

// TestEqualReadsShare: one read of the store for all, memory held by each.
func TestEqualReadsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		c := newCache(t, Options{Store: store})
		want := put(t, store, "k", 10_000)
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		arenas := make([]*Arena, 10)
		var wg sync.WaitGroup
		for i := range arenas {
			arenas[i] = NewArena()
			wg.Go(func() {
				bufs, err := c.Read(t.Context(), "k", 5, 5000, arenas[i])
				if err != nil || !bytes.Equal(join(bufs), want[5:5005]) {
					t.Errorf("Read: %v", err)
				}
			})
		}
		wg.Wait()
		if s := c.Stats(); s.Misses != 1 || s.Shared != 9 {
			t.Errorf("%d reads of the store, %d shared", s.Misses, s.Shared)
		}
		buf := arenas[0].held[0].buf
		for i, a := range arenas {
			if got := buf.refs.Load(); got != int32(10-i) {
				t.Errorf("%d holders, want %d", got, 10-i)
			}
			a.Release()
		}
		if len(c.flights.flights) != 0 {
			t.Error("flights are left")
		}
	})
}

// TestLeaderLeaves: when the reader whose read all share is cancelled, the
// others read themselves; waiters that leave give nothing back twice.
func TestLeaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		c := newCache(t, Options{Store: store})
		want := put(t, store, "k", 10_000)
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: 10 * time.Second}
		})
		arenas := make([]*Arena, 6)
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range arenas {
			arenas[i] = NewArena()
			ctx := t.Context()
			if i%2 == 0 { // the leader, 0, and two waiters leave after 5 s
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
			}
			wg.Go(func() {
				var bufs [][]byte
				bufs, errs[i] = c.Read(ctx, "k", 0, 10_000, arenas[i])
				if errs[i] == nil && !bytes.Equal(join(bufs), want) {
					t.Errorf("reader %d got other bytes", i)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		for i, err := range errs {
			if got := errors.Is(err, context.DeadlineExceeded); got != (i%2 == 0) {
				t.Errorf("reader %d: %v", i, err)
			}
		}
		if s := c.Stats(); s.Misses != 2 {
			t.Errorf("%d reads of the store, want 2", s.Misses)
		}
		buf := arenas[1].held[0].buf
		for _, a := range arenas {
			a.Release()
		}
		if n := buf.refs.Load(); n != 0 {
			t.Errorf("%d holders after all released", n)
		}
	})
}

// TestWaiterLeaves: a waiter that is cancelled holds nothing.
func TestWaiterLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		c := newCache(t, Options{Store: store})
		put(t, store, "k", 10_000)
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: 10 * time.Second}
		})
		a := NewArena()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Read(t.Context(), "k", 0, 10_000, a); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Read(ctx, "k", 0, 10_000, NewArena()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiter: %v", err)
		}
		wg.Wait()
		if n := a.held[0].buf.refs.Load(); n != 1 {
			t.Errorf("%d holders, want the leader alone", n)
		}
	})
}

// TestFaultsPassThrough: a failed read is nobody's later.
func TestFaultsPassThrough(t *testing.T) {
	store := memstore.New()
	c := newCache(t, Options{Store: store, RAMBytes: 1000, Disk: vfs.NewMem(), DiskBytes: 1000})
	want := put(t, store, "k", 100)
	store.SetFault(func(memstore.Op, string) memstore.Fault { return memstore.Fault{Kind: memstore.Fail} })
	if _, err := c.Read(t.Context(), "k", 0, 100, nil); !errors.Is(err, memstore.ErrInjected) {
		t.Errorf("Read of a failing store: %v", err)
	}
	store.SetFault(nil)
	if bufs, err := c.Read(t.Context(), "k", 0, 100, nil); err != nil || !bytes.Equal(join(bufs), want) {
		t.Errorf("Read afterwards: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := newCache(t, Options{RAMBytes: 1000, Registerer: reg})
	c.Fill("k", []Piece{{Data: make([]byte, 10)}})
	if _, err := c.Read(t.Context(), "k", 2, 5, nil); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	if got["varve_objcache_ram_hits_total"] != 1 || got["varve_objcache_ram_hit_bytes_total"] != 5 || got["varve_objcache_ram_bytes"] != 10+pieceOverhead {
		t.Errorf("metrics: %v", got)
	}
	if _, err := New(Options{Registerer: reg}); err == nil {
		t.Error("a second cache with the same registerer")
	}
}
