package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
)

// op is a put, or a Delete, of the script of a crash test.
type op struct {
	key   string
	size  int
	guest bool // done by another process
	del   bool
}

// scripts are what the crash tests do: puts into new and known folders, of small
// and of piecewise bodies, refused ones among them. In the packed one three
// packs are filled, two processes put the same keys, and objects are deleted.
var scripts = map[string][]op{
	"files": {
		{key: "wal/1/0", size: 300}, {key: "wal/1/1", size: 5000}, {key: "wal/1/0", size: 10}, {key: "seg/x/y/0", size: 1000},
		{key: "top", size: 64}, {key: "wal/1/2"}, {key: "wal/1/1", size: 5000}, {key: "wal/1/2", del: true},
	},
	"packed": {
		{key: "wal/1/0", size: 300}, {key: "wal/1/1", size: 5000}, {key: "wal/1/0", size: 10}, {key: "wal/1/2"},
		{key: "wal/1/3", size: 64, guest: true}, {key: "wal/1/3", size: 70}, {key: "wal/1/1", size: 10, guest: true},
		{key: "wal/1/0", del: true}, {key: "wal/1/4", size: 4000}, {key: "wal/1/5", size: 7000}, {key: "wal/1/6", size: 200},
		{key: "wal/1/1", del: true, guest: true}, {key: "wal/1/2", del: true}, {key: "wal/1/7", size: 20_000},
		{key: "wal/1/8", size: 100}, {key: "wal/1/9", size: 9000}, {key: "wal/1/a", size: 9000}, {key: "wal/1/b", size: 90, guest: true},
		{key: "wal/1/0", size: 333}, {key: "wal/1/3", del: true}, {key: "wal/1/3", size: 44}, {key: "seg/0", size: 100},
	},
}

// opener opens a store as a process with an id.
type opener func(disk vfs.FS, id string) (*Store, error)

var openers = map[string]opener{
	"files": func(disk vfs.FS, id string) (*Store, error) { return open(disk, "db/objects", testProcess(id)) },
	"packed": func(disk vfs.FS, id string) (*Store, error) {
		s, err := open(disk, "db/objects", testProcess(id), "wal/")
		if err == nil {
			s.packSize, s.packAfter = 32<<10, 0
		}
		return s, err
	},
}

// history is what a test knows of the store: for each key the acknowledged
// put, and those that may have been applied.
type history struct {
	script  []op
	acked   map[string]int
	started map[string][]int
	gone    map[string]bool // deleted for certain, and not put again
}

func newHistory(script []op) *history {
	return &history{script: script, acked: map[string]int{}, started: map[string][]int{}, gone: map[string]bool{}}
}

// body returns what the i-th operation of the script writes.
func (h *history) body(i int) objstore.Buffers {
	b := bytes.Repeat([]byte{byte('a' + i)}, h.script[i].size)
	return objstore.Buffers{b[:len(b)/3], b[len(b)/3:]}
}

// run does the script; after an unknown outcome it repeats the put at once, as
// a WAL writer does, and gives up after three times.
func (h *history) run(t *testing.T, s, guest *Store) {
	for i, op := range h.script {
		by := s
		if op.guest {
			by = guest
		}
		if op.del {
			delete(h.acked, op.key)
			h.gone[op.key] = by.Delete(t.Context(), op.key) == nil
			continue
		}
		delete(h.gone, op.key)
		h.started[op.key] = append(h.started[op.key], i)
		for range 3 {
			err := by.Put(t.Context(), op.key, h.body(i))
			if err == nil {
				h.acked[op.key] = i
				break
			}
			if errors.Is(err, objstore.ErrExists) {
				if _, ok := h.acked[op.key]; !ok {
					h.acked[op.key] = -1 // somebody's, and durable
				}
				break
			}
		}
	}
}

// check compares a store with the history: what was acknowledged is there and
// whole, the rest absent or whole.
func (h *history) check(t *testing.T, s *Store) error {
	infos, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, in := range infos {
		found[in.Key] = true
		p := make([]byte, in.Size)
		if _, _, err := s.ReadAt(t.Context(), in.Key, p, 0); err != nil {
			return err
		}
		want := h.started[in.Key]
		if i, ok := h.acked[in.Key]; ok && i >= 0 {
			want = []int{i}
		}
		whole := slices.ContainsFunc(want, func(i int) bool { return bytes.Equal(p, slices.Concat(h.body(i)...)) })
		if !whole {
			return fmt.Errorf("%s holds %d bytes of nobody's, or torn: %q, want one of %v, acknowledged %v", in.Key, in.Size, p[:min(8, len(p))], h.started[in.Key], want)
		}
	}
	for key := range h.acked {
		if !found[key] {
			return fmt.Errorf("%s was acknowledged and is gone", key)
		}
	}
	return nil
}

func testProcess(id string) process {
	return process{id: id, alive: func(other string) bool { return other == id }}
}

// checkCrash crashes the disk in several ways, opens the store as a new
// process and checks it.
func checkCrash(t *testing.T, m *vfs.Mem, h *history, open opener, what string) {
	t.Helper()
	for seed := range uint64(8) {
		disk := m.Crash(rand.New(rand.NewPCG(seed, 1)))
		s, err := open(disk, "2-0")
		if err != nil {
			t.Fatalf("%s, seed %d: open: %v", what, seed, err)
		}
		if err := h.check(t, s); err != nil {
			t.Fatalf("%s, seed %d: %v", what, seed, err)
		}
		if names, err := disk.ReadDir("db/objects/" + tmpDir); err != nil || len(names) > 0 {
			t.Fatalf("%s, seed %d: temporary files %q, %v", what, seed, names, err)
		}
		// The same code goes on: what is missing can be put, and then is there.
		h2 := newHistory(h.script)
		for i, op := range h.script {
			h2.started[op.key] = append(h2.started[op.key], i)
		}
		h2.run(t, s, s)
		if err := h2.check(t, s); err != nil {
			t.Fatalf("%s, seed %d: after going on: %v", what, seed, err)
		}
		if err := emptyAll(t, disk, s); err != nil {
			t.Fatalf("%s, seed %d: %v", what, seed, err)
		}
	}
}

// emptyAll deletes all objects, closes the store and looks that no pack is left.
func emptyAll(t *testing.T, disk *vfs.Mem, s *Store) error {
	infos, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		return err
	}
	for _, in := range infos {
		if err := s.Delete(t.Context(), in.Key); err != nil {
			return err
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	names, err := disk.ReadDir("db/objects/wal/1")
	if err != nil || slices.ContainsFunc(names, func(name string) bool { return name != homeLock && name != settleLock }) {
		return fmt.Errorf("after all was deleted there are %q, %v", names, err)
	}
	return nil
}

// TestCrashAfterEachOperation crashes before each disk operation, which is
// after each, and at the end.
func TestCrashAfterEachOperation(t *testing.T) {
	for kind, script := range scripts {
		t.Run(kind, func(t *testing.T) {
			m := vfs.NewMem()
			h := newHistory(script)
			ops := 0
			m.SetHook(func(op vfs.Op) error {
				checkCrash(t, m, h, openers[kind], fmt.Sprintf("before operation %d, %s %s", ops, op.Kind, op.Path))
				ops++
				return nil
			})
			s, guest := openTwo(t, m, openers[kind])
			h.run(t, s, guest)
			checkCrash(t, m, h, openers[kind], "at the end")
			if ops < 50 || len(h.acked) < 4 {
				t.Errorf("only %d operations and %d objects", ops, len(h.acked))
			}
		})
	}
}

func openTwo(t *testing.T, m *vfs.Mem, open opener) (s, guest *Store) {
	t.Helper()
	s, err := open(m, "1-0")
	if err != nil {
		t.Fatal(err)
	}
	guest, err = open(m, "1-0")
	if err != nil {
		t.Fatal(err)
	}
	return s, guest
}

// TestFaultAtEachOperation lets each disk operation fail once, and then all of
// them from there on, and crashes at the end.
func TestFaultAtEachOperation(t *testing.T) {
	for kind, script := range scripts {
		for _, once := range []bool{true, false} {
			for _, two := range []bool{true, false} {
				for at := 0; testFault(t, kind, script, at, once, two); at++ {
				}
			}
		}
	}
}

// testFault lets the operation numbered at fail, and says whether there was
// one. With two processes the fsync of a folder doesn't fail: it takes the
// other one's names as well, and he is not told. Nor does it fail to remove a
// temporary name: the other one may have the object open, and would not see it go.
func testFault(t *testing.T, kind string, script []op, at int, once, two bool) bool {
	m := vfs.NewMem()
	s, guest := openTwo(t, m, openers[kind])
	if !two {
		guest = s
	}
	h := newHistory(script)
	what, n := "", 0
	m.SetHook(func(op vfs.Op) error {
		if two && (op.Kind == vfs.OpSyncDir || op.Kind == vfs.OpRemove && strings.Contains(op.Path, tmpDir)) {
			return nil
		}
		n++
		if n-1 == at || n > at && !once {
			if n-1 == at {
				what = fmt.Sprintf("%s: operation %d, %s %s, fails (once: %v, two: %v)", kind, at, op.Kind, op.Path, once, two)
			}
			return syscall.EIO
		}
		return nil
	})
	h.run(t, s, guest)
	m.SetHook(nil)
	for _, s := range []*Store{s, guest} {
		if err := h.check(t, s); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	checkCrash(t, m, h, openers[kind], what)
	return n > at
}

// TestKillAtEachOperation lets each disk operation be the last one of a
// process, with no loss of power: what was deleted does not come back then.
func TestKillAtEachOperation(t *testing.T) {
	for kind, script := range scripts {
		for at, killed := 0, true; killed; at++ {
			m := vfs.NewMem()
			s, guest := openTwo(t, m, openers[kind])
			h := newHistory(script)
			n := 0
			m.SetHook(func(op vfs.Op) error {
				if n++; n > at {
					runtime.Goexit()
				}
				return nil
			})
			var wg sync.WaitGroup
			wg.Go(func() { h.run(t, s, guest) })
			wg.Wait()
			m.SetHook(nil)
			killed = n > at
			what := fmt.Sprintf("%s: killed after %d operations", kind, at)
			for _, f := range append(s.folders.homes(), guest.folders.homes()...) {
				f.freeHome() // as the system does
			}
			next, err := openers[kind](m, "2-0")
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if err := h.check(t, next); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for key, gone := range h.gone {
				if _, _, err := next.ReadAt(t.Context(), key, nil, 0); gone && !errors.Is(err, objstore.ErrNotFound) {
					t.Fatalf("%s: %s was deleted and is there: %v", what, key, err)
				}
			}
			checkCrash(t, m, h, openers[kind], what)
			if err := emptyAll(t, m, next); err != nil && len(h.acked) > 0 {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
}

// TestFailedFsync: a put whose folder was not synced is never acknowledged
// because a later fsync succeeds.
func TestFailedFsync(t *testing.T) {
	m := vfs.NewMem()
	s, err := open(m, "o", testProcess("1-0"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) error { return s.Put(t.Context(), key, objstore.Buffers{[]byte("x")}) }
	if err := put("d/0"); err != nil {
		t.Fatal(err)
	}
	m.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpSyncDir {
			return syscall.EIO
		}
		return nil
	})
	if err := put("d/1"); !errors.Is(err, syscall.EIO) {
		t.Errorf("Put with a failing fsync: %v", err)
	}
	m.SetHook(nil)
	for _, key := range []string{"d/1", "d/0", "d/2"} {
		if err := put(key); !errors.Is(err, errDirFailed) {
			t.Errorf("Put(%s) after a failed fsync: %v", key, err)
		}
	}
	if err := put("e/1"); err != nil {
		t.Errorf("Put into another folder: %v", err)
	}
}

// TestUnsyncedFolder: a folder that could not be opened for its fsync, because
// too many files were open, takes puts again, and what they tell is durable.
func TestUnsyncedFolder(t *testing.T) {
	m := vfs.NewMem()
	s, err := open(m, "o", testProcess("1-0"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) error { return s.Put(t.Context(), key, objstore.Buffers{[]byte("x")}) }
	m.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpSyncDir && op.Path == "o/d" {
			return fmt.Errorf("%w: %w", vfs.ErrNotSynced, syscall.EMFILE)
		}
		return nil
	})
	if err := put("d/0"); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("Put into a folder that can't be opened: %v", err)
	}
	m.SetHook(nil)
	if err := put("d/0"); !errors.Is(err, objstore.ErrExists) {
		t.Errorf("the same again: %v", err)
	}
	if err := put("d/1"); err != nil {
		t.Errorf("another: %v", err)
	}
	for seed := range uint64(8) {
		crashed, err := open(m.Crash(rand.New(rand.NewPCG(seed, 6))), "o", testProcess("2-0"))
		if err != nil {
			t.Fatal(err)
		}
		if all, err := crashed.List(t.Context(), "", "", 0); err != nil || len(all) != 2 {
			t.Errorf("seed %d: %v, %v", seed, all, err)
		}
	}
}

// TestSweep: only the files of processes that are gone are removed.
func TestSweep(t *testing.T) {
	m := vfs.NewMem()
	if _, err := open(m, "o", testProcess("1-7")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"1-7-aa-1", "2-9-bb-1", "2-9-bb-2", "2-9-empty-0", "stranger"} {
		if err := m.Mkdir("o/" + tmpDir + "/" + name); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "empty") {
			continue
		}
		if _, err := m.Create("o/" + tmpDir + "/" + name + "/1025"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(m, "o", testProcess("1-7")); err != nil {
		t.Fatal(err)
	}
	names, err := m.ReadDir("o/" + tmpDir)
	if got := strings.Join(names, " "); err != nil || got != "1-7-aa-1/ stranger/" {
		t.Errorf("left: %q, %v", got, err)
	}
	self := newProcess()
	if !self.alive(self.id) || self.alive(self.id+"0") || self.alive("999999999-1") || self.alive("x-1") {
		t.Errorf("process %q is taken for dead, or others for alive", self.id)
	}
}

// TestFailedClose: a pack whose closing failed, and that can be read as closed until the power
// goes, does not lend its records to names that were deleted and put again since.
func TestFailedClose(t *testing.T) {
	script := []op{
		{key: "wal/1/0", size: 64}, {key: "wal/1/1", size: 14_000}, {key: "wal/1/2", size: 14_000},
		{key: "wal/1/0", del: true}, {key: "wal/1/0", size: 44},
	}
	failed := 0
	for range 4 { // packs are settled in any order
		for at := 0; ; at++ {
			if !testFault(t, "packed", script, at, true, false) {
				break
			}
			failed++
		}
	}
	if failed < 4*50 {
		t.Errorf("only %d operations failed", failed)
	}
}
