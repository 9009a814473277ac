package objcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// drain writes what is queued for the disk, as Run does.
func drain(c *Cache) {
	for {
		j, ok := c.disk.queue.pop()
		if !ok {
			return
		}
		c.disk.write(j)
		j.done()
	}
}

// readEqual reads a range and compares it with the object's content.
func readEqual(t testing.TB, c *Cache, key string, size int, off, n int64) {
	t.Helper()
	a := NewArena()
	defer a.Release()
	bufs, err := c.Read(context.Background(), key, off, n, a)
	if err != nil {
		t.Fatalf("Read(%s, %d, %d): %v", key, off, n, err)
	}
	if !bytes.Equal(join(bufs), content(key, size)[off:off+n]) {
		t.Fatalf("Read(%s, %d, %d) returned other bytes", key, off, n)
	}
}

func TestDiskServes(t *testing.T) {
	const size = 300_000
	store, disk := memstore.New(), vfs.NewMem()
	o := Options{Store: store, Disk: disk, DiskBytes: 1 << 30}
	c := newCache(t, o)
	b := put(t, store, "filled", size)
	put(t, store, "missed", size)
	put(t, store, "once", size)
	c.Fill("filled", []Piece{{Data: b[:1000]}, {Off: 1000, Data: b[1000:200_000]}, {Off: 250_000, Data: b[250_000:]}})
	readEqual(t, c, "missed", size, 70_000, 140_000)
	if _, err := c.ReadOnce(t.Context(), "once", 0, size, nil); err != nil {
		t.Fatal(err)
	}
	drain(c)
	for range 2 { // the second time after a restart
		before := c.Stats()
		for _, r := range [][2]int64{{0, 200_000}, {0, 1}, {65_535, 2}, {65_536, 65_536}, {199_999, 1}, {250_000, 50_000}, {299_999, 1}} {
			readEqual(t, c, "filled", size, r[0], r[1])
		}
		for _, r := range [][2]int64{{70_000, 140_000}, {100_000, 100_000}, {209_999, 1}} {
			readEqual(t, c, "missed", size, r[0], r[1])
		}
		after := c.Stats()
		if hits := after.DiskHits - before.DiskHits; hits != 10 || after.Misses != before.Misses || after.DiskErrors != 0 || after.DiskExtents != 3 {
			t.Errorf("%d hits, stats %+v", hits, after)
		}
		c = newCache(t, o)
	}
	readEqual(t, c, "once", size, 0, size)
	readEqual(t, c, "filled", size, 199_999, 2)
	if s := c.Stats(); s.Misses != 2 {
		t.Errorf("%d reads of the store, want 2", s.Misses)
	}
	c.Forget("filled")
	c.Forget("once") // still queued
	drain(c)
	if s := c.Stats(); s.DiskExtents != 1 {
		t.Errorf("%d extents after Forget", s.DiskExtents)
	}
}

func TestDiskIsBounded(t *testing.T) {
	const limit, size = 8 << 20, 500_000
	store, disk := memstore.New(), vfs.NewMem()
	o := Options{Store: store, Disk: disk, DiskBytes: limit}
	c := newCache(t, o)
	onDisk := func() (total int64) {
		names, err := disk.ReadDir("")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			n, err := disk.Size(name)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
		return total
	}
	for i := range 60 {
		key := fmt.Sprint("k", i)
		c.Fill(key, []Piece{{Data: put(t, store, key, size)}})
		drain(c)
		if got := onDisk(); got > limit || got != c.Stats().DiskBytes {
			t.Fatalf("after %d fills: %d bytes on disk, stats say %d", i, got, c.Stats().DiskBytes)
		}
		for j := range i + 1 {
			readEqual(t, c, fmt.Sprint("k", j), size, 1000, 400_000)
			c.queueForTest(nil)
		}
	}
	if s := c.Stats(); s.DiskExtents < 10 || s.DiskErrors != 0 {
		t.Errorf("stats %+v", s)
	}
	o.DiskBytes = 2 << 20 // a smaller bound holds from the start
	c = newCache(t, o)
	if got := onDisk(); got > o.DiskBytes || got == 0 {
		t.Errorf("%d bytes on disk after a restart with %d", got, o.DiskBytes)
	}
	readEqual(t, c, "k59", size, 0, size)
	if s := c.Stats(); s.DiskHits != 1 {
		t.Errorf("the newest is not there: %+v", s)
	}
	c.Fill("huge", []Piece{{Data: make([]byte, o.DiskBytes/4-100)}, {Off: o.DiskBytes, Data: make([]byte, o.DiskBytes)}})
	drain(c)
	if s := c.Stats(); s.DiskDropped == 0 || onDisk() > o.DiskBytes {
		t.Errorf("stats %+v", s)
	}
}

// queueForTest replaces the jobs that wait for the disk.
func (c *Cache) queueForTest(jobs []job) {
	q := &c.disk.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs, q.bytes = jobs, 0
}

// script fills and reads a few objects through the disk layer.
func script(t testing.TB, store *memstore.Store, disk vfs.FS) {
	c, err := New(Options{Store: store, Disk: disk, DiskBytes: 700_000})
	if err != nil {
		return // an injected fault
	}
	for i := range 6 {
		key := fmt.Sprint("k", i)
		b := content(key, 150_000)
		c.Fill(key, []Piece{{Data: b[:100]}, {Off: 100, Data: b[100:80_000]}})
		drain(c)
		readEqual(t, c, key, 150_000, 90_000, 60_000)
		drain(c)
		readEqual(t, c, "k0", 150_000, 0, 150_000)
		drain(c)
	}
}

func scriptStore(t testing.TB) *memstore.Store {
	store := memstore.New()
	for i := range 6 {
		put(t, store, fmt.Sprint("k", i), 150_000)
	}
	return store
}

// checkAll reads everything in many ranges; whatever the disk holds, the bytes are right.
func checkAll(t testing.TB, store *memstore.Store, disk vfs.FS) Stats {
	t.Helper()
	c := newCache(t, Options{Store: store, Disk: disk, DiskBytes: 700_000})
	for i := range 6 {
		for _, r := range [][2]int64{{0, 80_000}, {90_000, 60_000}, {0, 150_000}, {70_000, 100}} {
			readEqual(t, c, fmt.Sprint("k", i), 150_000, r[0], r[1])
		}
	}
	return c.Stats()
}

// TestCrash crashes before each disk operation and at the end: what is left
// may be read or not, but never returns other bytes.
func TestCrash(t *testing.T) {
	store, m := scriptStore(t), vfs.NewMem()
	var hits, bad int64
	ops := 0
	crash := func() {
		for seed := range uint64(3) {
			s := checkAll(t, store, m.Crash(rand.New(rand.NewPCG(seed, uint64(ops)))))
			hits += s.DiskHits
			bad += s.DiskErrors
		}
		ops++
	}
	m.SetHook(func(vfs.Op) error { crash(); return nil })
	script(t, store, m)
	m.SetHook(nil)
	crash()
	if ops < 20 || hits == 0 || bad == 0 {
		t.Errorf("%d operations, %d hits and %d wrong checksums after crashes; the test should see all", ops, hits, bad)
	}
}

// TestFaults lets each disk operation fail, once or for good: reads go on.
func TestFaults(t *testing.T) {
	store := scriptStore(t)
	for _, once := range []bool{true, false} {
		for at, done := 0, false; !done; at++ {
			m := vfs.NewMem()
			var mu sync.Mutex
			n := 0
			m.SetHook(func(vfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				n++
				if n-1 == at || n > at && !once {
					return syscall.ENOSPC
				}
				return nil
			})
			script(t, store, m)
			m.SetHook(nil)
			checkAll(t, store, m)
			done = n <= at
		}
	}
}

// TestTornWrite: what is written after a torn record is found after a restart.
func TestTornWrite(t *testing.T) {
	m := vfs.NewMem()
	o := Options{Store: memstore.New(), Disk: m, DiskBytes: 10 << 20}
	c := newCache(t, o)
	for i := range 3 {
		m.SetHook(func(op vfs.Op) error {
			if i == 1 && op.Kind == vfs.OpWrite {
				return syscall.ENOSPC
			}
			return nil
		})
		key := fmt.Sprint("k", i)
		c.Fill(key, []Piece{{Data: content(key, 1000)}})
		drain(c)
	}
	if s := c.Stats(); s.DiskErrors != 1 || s.DiskDropped != 1 || s.DiskExtents != 2 {
		t.Errorf("stats %+v", s)
	}
	c = newCache(t, o)
	readEqual(t, c, "k0", 1000, 0, 1000) // the store has neither
	readEqual(t, c, "k2", 1000, 0, 1000)
}

// TestFlippedBits: a changed byte anywhere in the files is never served.
func TestFlippedBits(t *testing.T) {
	store, m := scriptStore(t), vfs.NewMem()
	script(t, store, m)
	names, err := m.ReadDir("")
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		bad := vfs.NewMem()
		for _, name := range names {
			size, _ := m.Size(name)
			b := make([]byte, size)
			src, err := m.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := src.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			for range 1 + seed%5 {
				at := rng.IntN(len(b))
				if seed%2 == 0 {
					at = rng.IntN(64) // in a header
				}
				b[at] ^= 1 << rng.IntN(8)
			}
			dst, err := bad.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := dst.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		checkAll(t, store, bad)
	}
}

// TestRun: fills reach the disk through Run, and it ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		c := newCache(t, Options{Store: store, Disk: vfs.NewMem(), DiskBytes: 10 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		for i := range 5 {
			key := fmt.Sprint("k", i)
			c.Fill(key, []Piece{{Data: content(key, 10_000)}})
			synctest.Wait()
			readEqual(t, c, key, 10_000, 0, 10_000) // the store does not have it
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestConcurrently runs everything at once, with little room, for the race
// detector.
func TestConcurrently(t *testing.T) {
	const size = 200_000
	d, err := vfs.Disk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	store := memstore.New()
	for i := range 20 {
		put(t, store, fmt.Sprint("k", i), size)
	}
	c := newCache(t, Options{Store: store, RAMBytes: 3 * size, Disk: d, DiskBytes: 8 * size})
	ctx, cancel := context.WithCancel(t.Context())
	var run, wg sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx) })
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 5))
			for range 300 {
				key := fmt.Sprint("k", rng.IntN(20))
				off := rng.Int64N(size)
				switch rng.IntN(10) {
				case 0:
					c.Fill(key, []Piece{{Data: content(key, size)}})
				case 1:
					c.Forget(key)
				default:
					readEqual(t, c, key, size, off, rng.Int64N(size-off))
				}
			}
		})
	}
	wg.Wait()
	cancel()
	run.Wait()
	if s := c.Stats(); s.DiskErrors > 0 || s.DiskHits == 0 || s.RAMHits == 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestModel runs random calls against the plain content of the objects, and
// holds on to some results to see that their memory stays theirs.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, disk := memstore.New(), vfs.NewMem()
		o := Options{
			Store: store, Disk: disk,
			RAMBytes:  rapid.Int64Range(0, 300_000).Draw(t, "ram"),
			DiskBytes: rapid.Int64Range(0, 600_000).Draw(t, "disk"),
		}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		size := map[string]int64{}
		for i := range 4 {
			key := fmt.Sprint("k", i)
			size[key] = rapid.Int64Range(1, 200_000).Draw(t, "size")
			if err := store.Put(context.Background(), key, objstore.Buffers{content(key, int(size[key]))}); err != nil {
				t.Fatal(err)
			}
		}
		type held struct {
			a         *Arena
			got, want []byte
		}
		var results []held
		crashed := false // from then on a range may be found damaged
		drawKey := rapid.SampledFrom([]string{"k0", "k1", "k2", "k3"})
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				for _, h := range results {
					if !bytes.Equal(h.got, h.want) {
						t.Fatal("memory of an unreleased result has changed")
					}
				}
				if s := c.Stats(); s.RAMBytes > o.RAMBytes || s.DiskBytes > o.DiskBytes || s.DiskErrors > 0 && !crashed {
					t.Fatalf("stats %+v", s)
				}
			},
			"read": func(t *rapid.T) {
				key := drawKey.Draw(t, "key")
				off := rapid.Int64Range(0, size[key]).Draw(t, "off")
				n := rapid.Int64Range(0, size[key]-off).Draw(t, "n")
				read := c.Read
				if rapid.Bool().Draw(t, "once") {
					read = c.ReadOnce
				}
				a := NewArena()
				bufs, err := read(context.Background(), key, off, n, a)
				if err != nil {
					t.Fatal(err)
				}
				got, want := join(bufs), content(key, int(size[key]))[off:off+n]
				if !bytes.Equal(got, want) {
					t.Fatalf("Read(%s, %d, %d) returned other bytes", key, off, n)
				}
				if len(bufs) == 1 && rapid.Bool().Draw(t, "hold") {
					results = append(results, held{a, bufs[0], want})
					return
				}
				a.Release()
			},
			"release": func(t *rapid.T) {
				if len(results) > 0 {
					results[0].a.Release()
					results = results[1:]
				}
			},
			"fill": func(t *rapid.T) {
				key := drawKey.Draw(t, "key")
				b := content(key, int(size[key]))
				var pieces []Piece
				for off := int64(0); off < size[key]; {
					off += rapid.Int64Range(0, 50_000).Draw(t, "gap") / 2 * rapid.Int64Range(0, 1).Draw(t, "has gap")
					end := min(size[key], off+rapid.Int64Range(1, 100_000).Draw(t, "piece"))
					if off < end {
						pieces = append(pieces, Piece{off, b[off:end]})
					}
					off = max(off, end)
				}
				c.Fill(key, pieces)
			},
			"forget": func(t *rapid.T) { c.Forget(drawKey.Draw(t, "key")) },
			"drain": func(t *rapid.T) {
				if c.disk != nil {
					drain(c)
				}
			},
			"restart": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "crash") {
					disk = disk.Crash(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
					o.Disk, crashed = disk, true
				}
				if c, err = New(o); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func FuzzExtentHead(f *testing.F) {
	h := newExtentHead("wal/1/2", 77, [][]byte{make([]byte, 100_000), make([]byte, 50_000)})
	f.Add(h.encode())
	f.Add([]byte(extentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeExtentHead(b)
		if err != nil {
			return
		}
		if again := h.encode(); !bytes.Equal(again, b[:len(again)]) && b[10] == 0 && b[11] == 0 {
			t.Errorf("encodes to %x, was %x", again, b[:len(again)])
		}
	})
}
