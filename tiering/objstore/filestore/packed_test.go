package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

func openPacked(t *testing.T, m *vfs.Mem) *Store {
	t.Helper()
	s, err := openers["packed"](m, "1-0")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustPut(t *testing.T, s *Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, objstore.Buffers{[]byte(content)}); err != nil {
		t.Fatalf("Put(%s): %v", key, err)
	}
}

// packs returns how many packs there are in a folder, how many bytes they
// have, and how many are closed.
func packs(t *testing.T, m *vfs.Mem, dir string) (n int, size int64, closed int) {
	t.Helper()
	names, err := m.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		id, ref, ok := pack.ParseName(name)
		if ref || !ok {
			continue
		}
		f, err := m.Open(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := f.Size()
		if err != nil {
			t.Fatal(err)
		}
		state, err := pack.ReadState(f, id)
		if err != nil {
			t.Fatal(err)
		}
		n, size = n+1, size+bytes
		if state == pack.Closed {
			closed++
		}
	}
	return n, size, closed
}

// isPacked says whether an object is in a pack.
func isPacked(t *testing.T, s *Store, key string) bool {
	t.Helper()
	_, _, packed, err := s.size(s.path(key))
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// TestOneHome: one Store writes packs in a folder at a time, and another can
// when it has gone.
func TestOneHome(t *testing.T) {
	m := vfs.NewMem()
	home, guest := openPacked(t, m), openPacked(t, m)
	mustPut(t, home, "wal/1/0", "home's")
	mustPut(t, guest, "wal/1/1", "guest's")
	if !isPacked(t, guest, "wal/1/0") || isPacked(t, home, "wal/1/1") {
		t.Error("the guest's object is in a pack, or the home's is not")
	}
	mustPut(t, home, "other/1", "not below the prefix")
	if isPacked(t, home, "other/1") {
		t.Error("an object below no prefix is in a pack")
	}
	if err := home.Close(); err != nil {
		t.Fatal(err)
	}
	mustPut(t, guest, "wal/1/2", "a home's now")
	if !isPacked(t, guest, "wal/1/2") {
		t.Error("the guest did not become the home")
	}
	if n, _, closed := packs(t, m, "db/objects/wal/1"); n != 2 || closed != 1 {
		t.Errorf("%d packs, %d closed; want 2, 1", n, closed)
	}
}

// TestHomes: a Store writes packs in a few folders at a time, those used last.
func TestHomes(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	for range 2 {
		for i := range maxHomes + 3 {
			mustPut(t, s, fmt.Sprintf("wal/%d/%d", i, s.seq.Add(1)), "x")
		}
	}
	if n := len(s.folders.homes()); n != maxHomes {
		t.Errorf("home of %d folders, want %d", n, maxHomes)
	}
	for i := range maxHomes + 3 {
		n, _, closed := packs(t, m, fmt.Sprintf("db/objects/wal/%d", i))
		if open := n - closed; n != 2 || (open == 1) != (i >= 3) {
			t.Errorf("folder %d has %d packs, %d open", i, n, open)
		}
	}
}

// TestPutWhileLeaving: no pack is begun in a folder that is being left.
func TestPutWhileLeaving(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	mustPut(t, s, "wal/a/0", "x")
	if err := s.Delete(t.Context(), "wal/a/0"); err != nil {
		t.Fatal(err)
	}
	puts := 0
	m.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpRemove && strings.Contains(op.Path, "wal/a/~pack-") {
			puts++
			mustPut(t, s, fmt.Sprint("wal/a/", puts), "y")
		}
		return nil
	})
	for i := range maxHomes {
		mustPut(t, s, fmt.Sprintf("wal/%d/0", i), "x")
	}
	f := s.folders.use("db/objects/wal/a")
	defer s.folders.done(f)
	if puts != 1 || f.pack != nil || f.home != nil {
		t.Errorf("%d puts while the folder was left; pack %v, lock %v", puts, f.pack, f.home)
	}
}

// TestPackSpace: a pack that is closed takes what its objects need, and one
// without objects nothing.
func TestPackSpace(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	const dir = "db/objects/wal/1"
	for i := range 10 {
		mustPut(t, s, fmt.Sprintf("wal/1/%d", i), strings.Repeat("x", 5000))
	}
	if n, size, closed := packs(t, m, dir); n < 2 || size <= 32<<10 || closed != n-1 {
		t.Errorf("%d packs of %d bytes, %d closed", n, size, closed)
	}
	for i := range 5 {
		if err := s.Delete(t.Context(), fmt.Sprintf("wal/1/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	before, _, _ := packs(t, m, dir)
	for i := range 9 {
		if err := s.Delete(t.Context(), fmt.Sprintf("wal/1/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if after, _, _ := packs(t, m, dir); after >= before {
		t.Errorf("%d packs, %d after all objects but one were deleted", before, after)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n, size, closed := packs(t, m, dir); n != 1 || closed != 1 || size > 32<<10 {
		t.Errorf("after Close %d packs of %d bytes, %d closed", n, size, closed)
	}
}

// TestFullDiskWithPacks: where there is no room for a pack, or no way to make
// one, objects get files.
func TestFullDiskWithPacks(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, errors.ErrUnsupported} {
		m := vfs.NewMem()
		s := openPacked(t, m)
		m.SetHook(func(op vfs.Op) error {
			if op.Kind == vfs.OpPreallocate {
				return fault
			}
			return nil
		})
		mustPut(t, s, "wal/1/0", "x")
		m.SetHook(nil)
		mustPut(t, s, "wal/1/1", "y")
		if first, second := isPacked(t, s, "wal/1/0"), isPacked(t, s, "wal/1/1"); first || second != (fault == syscall.ENOSPC) {
			t.Errorf("%v: packed: %v, then %v", fault, first, second)
		}
	}
}

// TestFailedPackWrite: after a write whose outcome is unknown the next puts
// get files until the pack is closed, and the same key can be put.
func TestFailedPackWrite(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	mustPut(t, s, "wal/1/0", "x")
	fail := true
	m.SetHook(func(op vfs.Op) error {
		if fail && op.Kind == vfs.OpSync {
			fail = false
			return syscall.EIO
		}
		return nil
	})
	body := objstore.Buffers{[]byte("content")}
	if err := s.Put(t.Context(), "wal/1/1", body); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Put: %v", err)
	}
	if _, _, closed := packs(t, m, "db/objects/wal/1"); closed != 1 {
		t.Error("the pack goes on after a failed write")
	}
	mustPut(t, s, "wal/1/1", "content")
	mustPut(t, s, "wal/1/2", "y")
	if !isPacked(t, s, "wal/1/1") || !isPacked(t, s, "wal/1/2") {
		t.Error("there is no next pack")
	}
}

// TestLargePacked: an object that is large for a pack gets a file.
func TestLargePacked(t *testing.T) {
	s := openPacked(t, vfs.NewMem())
	mustPut(t, s, "wal/1/0", strings.Repeat("x", 17<<10))
	mustPut(t, s, "wal/1/1", strings.Repeat("x", 16<<10))
	if isPacked(t, s, "wal/1/0") || !isPacked(t, s, "wal/1/1") {
		t.Error("packed is what is too large, or not what is not")
	}
}

// TestAlone: an object that outlives its neighbours does not keep their space.
func TestAlone(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	mustPut(t, s, "wal/1/0", "x")
	if err := s.Put(t.Context(), "wal/1/1", objstore.Alone{Body: objstore.Buffers{[]byte("seal")}}); err != nil {
		t.Fatal(err)
	}
	if isPacked(t, s, "wal/1/1") {
		t.Error("it is in a pack")
	}
	if err := s.Delete(t.Context(), "wal/1/0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := packs(t, m, "db/objects/wal/1"); n != 0 {
		t.Errorf("%d packs are left", n)
	}
}

// TestMissingPack: an object whose pack is gone is an error, not an absent object.
func TestMissingPack(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	mustPut(t, s, "wal/1/0", "x")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := m.ReadDir("db/objects/wal/1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, ref, ok := pack.ParseName(name); ok && !ref {
			if err := m.Remove("db/objects/wal/1/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = openPacked(t, m)
	if _, _, err := s.ReadAt(t.Context(), "wal/1/0", nil, 0); !errors.Is(err, errNoPack) || errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt: %v", err)
	}
	if _, err := s.List(t.Context(), "", "", 0); !errors.Is(err, errNoPack) {
		t.Errorf("List: %v", err)
	}
	if err := s.Delete(t.Context(), "wal/1/0"); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if got, err := s.List(t.Context(), "", "", 0); err != nil || len(got) != 0 {
		t.Errorf("List after Delete: %v, %v", got, err)
	}
}

// gate holds the durable writes to the first pack up, from the time it is shut.
type gate struct {
	shut atomic.Bool
	seen atomic.Int64  // writes that came
	open chan struct{} // closed: they go on
	file string        // the pack, as it was called when it was made
}

func newGate(m *vfs.Mem) *gate {
	g := &gate{open: make(chan struct{})}
	m.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpPreallocate && g.file == "" {
			g.file = op.Path
		}
		if op.Kind == vfs.OpSync && op.Path == g.file && g.shut.Load() {
			g.seen.Add(1)
			<-g.open
		}
		return nil
	})
	return g
}

// TestCloseWaits: a pack is closed when the last put that has a place in it is
// done, and not before.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		s, g := openPacked(t, m), newGate(m)
		mustPut(t, s, "wal/1/0", "x")
		g.shut.Store(true)
		var wg sync.WaitGroup
		wg.Go(func() { mustPut(t, s, "wal/1/slow", "content") })
		synctest.Wait()
		if g.seen.Load() != 1 {
			t.Fatalf("%d writes to the pack, want 1", g.seen.Load())
		}
		mustPut(t, s, "wal/1/1", strings.Repeat("x", 16<<10)) // there is no room for it
		if isPacked(t, s, "wal/1/1") {
			t.Error("an object went into a pack while the one before was open")
		}
		if n, _, closed := packs(t, m, "db/objects/wal/1"); n != 1 || closed != 0 {
			t.Errorf("%d packs, %d closed, while a put was under way", n, closed)
		}
		close(g.open)
		wg.Wait()
		if n, _, closed := packs(t, m, "db/objects/wal/1"); n != 1 || closed != 1 {
			t.Errorf("%d packs, %d closed, when it was done", n, closed)
		}
	})
}

// TestOneRecord: of the puts of a name at one time one has a record, so that a
// loss of power does not leave two without a name.
func TestOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		s, g := openPacked(t, m), newGate(m)
		mustPut(t, s, "wal/1/0", "x")
		g.shut.Store(true)
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				err := s.Put(t.Context(), "wal/1/1", objstore.Buffers{fmt.Append(nil, i)})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, objstore.ErrExists) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		n := g.seen.Load()
		close(g.open)
		wg.Wait()
		if n != 1 || g.seen.Load() != 1 || won.Load() != 1 {
			t.Errorf("%d records of a name, %d winners", g.seen.Load(), won.Load())
		}
	})
}

// TestPutAfterDelete: of an object that was deleted and put again, a loss of
// power does not bring the old name back.
func TestPutAfterDelete(t *testing.T) {
	for _, first := range []string{"files", "packed"} {
		m := vfs.NewMem()
		s, err := openers[first](m, "1-0")
		if err != nil {
			t.Fatal(err)
		}
		mustPut(t, s, "wal/1/0", "old")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openPacked(t, m)
		mustPut(t, s, "wal/1/1", "x")
		if err := s.Delete(t.Context(), "wal/1/0"); err != nil {
			t.Fatal(err)
		}
		mustPut(t, s, "wal/1/0", "new")
		if !isPacked(t, s, "wal/1/0") {
			t.Error("not packed")
		}
		for seed := range uint64(8) {
			p := make([]byte, 3)
			_, _, err := openPacked(t, m.Crash(rand.New(rand.NewPCG(seed, 4)))).ReadAt(t.Context(), "wal/1/0", p, 0)
			if err != nil || string(p) != "new" {
				t.Errorf("%s, seed %d: %q, %v", first, seed, p, err)
			}
		}
	}
}

// TestDeleteSome: a key that fails holds up no other one, and what went is gone
// for ever, pack and all.
func TestDeleteSome(t *testing.T) {
	m := vfs.NewMem()
	s := openPacked(t, m)
	keys := []string{"wal/1/0", "wal/2/0", "wal/1/1", "wal/2/1"}
	for _, key := range append(keys, "wal/1/2") {
		mustPut(t, s, key, "old")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openPacked(t, m)
	m.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpRemove && (op.Path == "db/objects/wal/1/0" || op.Path == "db/objects/wal/1/1") {
			return syscall.EIO
		}
		return nil
	})
	err := s.Delete(t.Context(), keys...)
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), keys[0]) || !strings.Contains(err.Error(), keys[2]) {
		t.Errorf("Delete with two that fail: %v", err)
	}
	m.SetHook(nil)
	if n, _, _ := packs(t, m, "db/objects/wal/2"); n != 0 {
		t.Errorf("%d packs are left without objects", n)
	}
	for seed := range uint64(8) {
		all, err := openPacked(t, m.Crash(rand.New(rand.NewPCG(seed, 5)))).List(t.Context(), "", "", 0)
		if err != nil || len(all) != 3 {
			t.Errorf("seed %d: %v, %v", seed, all, err)
		}
	}
}

// TestFirstTouch: whatever a Store does first after a loss of power, it does it
// to what was acknowledged before.
func TestFirstTouch(t *testing.T) {
	m := vfs.NewMem()
	mustPut(t, openPacked(t, m), "wal/1/0", "content")
	touches := map[string]func(s *Store) error{
		"put": func(s *Store) error {
			if err := s.Put(t.Context(), "wal/1/0", objstore.Buffers{[]byte("other")}); !errors.Is(err, objstore.ErrExists) {
				return fmt.Errorf("Put: %w", err)
			}
			return nil
		},
		"read": func(s *Store) error { _, _, err := s.ReadAt(t.Context(), "wal/1/0", nil, 0); return err },
		"list": func(s *Store) error {
			if infos, err := s.List(t.Context(), "wal/1/", "", 0); err != nil || len(infos) != 1 {
				return fmt.Errorf("List: %v, %w", infos, err)
			}
			return nil
		},
		"delete": func(s *Store) error {
			if err := s.Delete(t.Context(), "wal/1/0"); err != nil {
				return err
			}
			if infos, err := s.List(t.Context(), "wal/1/", "", 0); err != nil || len(infos) != 0 {
				return fmt.Errorf("List after Delete: %v, %w", infos, err)
			}
			return nil
		},
	}
	for what, touch := range touches {
		for seed := range uint64(8) {
			s, err := openers["files"](m.Crash(rand.New(rand.NewPCG(seed, 3))), "2-0")
			if err != nil {
				t.Fatal(err)
			}
			if err := touch(s); err != nil {
				t.Errorf("%s, seed %d: %v", what, seed, err)
			}
		}
	}
}

// TestCrashUnderLoad cuts the power while a home and a guest put the same and
// other keys from several goroutines: what had been acknowledged by then is there.
func TestCrashUnderLoad(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := vfs.NewMem()
		var mu sync.Mutex
		acked := map[string]string{}
		var disk *vfs.Mem
		var want map[string]string
		left := 20 + rng.IntN(400)
		m.SetHook(func(vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				disk, want = m.Crash(rng), map[string]string{}
				for key, content := range acked {
					want[key] = content
				}
			}
			return nil
		})
		home, guest := openPacked(t, m), openPacked(t, m)
		var wg sync.WaitGroup
		for g, s := range []*Store{home, home, home, guest} {
			wg.Go(func() {
				for i := range 12 {
					key, content := fmt.Sprintf("wal/1/%d", i+g%2*3), fmt.Sprintf("%d of %d%s", i, g, strings.Repeat("x", i*900))
					if s.Put(t.Context(), key, objstore.Buffers{[]byte(content)}) == nil {
						mu.Lock()
						acked[key] = content
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		if disk == nil {
			continue
		}
		after := openPacked(t, disk)
		for key, content := range want {
			p := make([]byte, len(content))
			if _, size, err := after.ReadAt(t.Context(), key, p, 0); err != nil || size != int64(len(p)) || !bytes.Equal(p, []byte(content)) {
				t.Fatalf("seed %d: %s has %d bytes %.10q, %v; want %.10q", seed, key, size, p, err, content)
			}
		}
	}
}
