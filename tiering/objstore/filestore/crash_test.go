package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
)

// script is what the crash tests do: puts into new and known folders, of small
// and of piecewise bodies, a refused one among them.
var script = []struct {
	key  string
	size int
}{
	{"wal/1/0", 300}, {"wal/1/1", 5000}, {"wal/1/0", 10}, {"seg/x/y/0", 1000}, {"top", 64}, {"wal/1/2", 0}, {"wal/1/1", 5000},
}

// body returns what the i-th put of the script writes.
func body(i int) objstore.Buffers {
	b := bytes.Repeat([]byte{byte('a' + i)}, script[i].size)
	return objstore.Buffers{b[:len(b)/3], b[len(b)/3:]}
}

// history is what a test knows of the store: for each key the acknowledged
// put, and those that may have been applied.
type history struct {
	acked   map[string]int
	started map[string][]int
}

func newHistory() *history {
	return &history{acked: map[string]int{}, started: map[string][]int{}}
}

// run does the script; after an unknown outcome it repeats the put at once, as
// a WAL writer does, and gives up after three times.
func (h *history) run(t *testing.T, s *Store) {
	for i, op := range script {
		h.started[op.key] = append(h.started[op.key], i)
		for range 3 {
			err := s.Put(t.Context(), op.key, body(i))
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
		whole := slices.ContainsFunc(want, func(i int) bool { return bytes.Equal(p, slices.Concat(body(i)...)) })
		if !whole {
			return fmt.Errorf("%s holds %d bytes of nobody's, or torn", in.Key, in.Size)
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
func checkCrash(t *testing.T, m *vfs.Mem, h *history, what string) {
	t.Helper()
	for seed := range uint64(8) {
		disk := m.Crash(rand.New(rand.NewPCG(seed, 1)))
		s, err := open(disk, "db/objects", testProcess("2-0"))
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
		h2 := newHistory()
		for i, op := range script {
			h2.started[op.key] = append(h2.started[op.key], i)
		}
		h2.run(t, s)
		if err := h2.check(t, s); err != nil {
			t.Fatalf("%s, seed %d: after going on: %v", what, seed, err)
		}
	}
}

// TestCrashAfterEachOperation crashes before each disk operation, which is
// after each, and at the end.
func TestCrashAfterEachOperation(t *testing.T) {
	m := vfs.NewMem()
	h := newHistory()
	ops := 0
	m.SetHook(func(op vfs.Op) error {
		checkCrash(t, m, h, fmt.Sprintf("before operation %d, %s %s", ops, op.Kind, op.Path))
		ops++
		return nil
	})
	s, err := open(m, "db/objects", testProcess("1-0"))
	if err != nil {
		t.Fatal(err)
	}
	h.run(t, s)
	checkCrash(t, m, h, "at the end")
	if ops < 50 || len(h.acked) != 5 {
		t.Errorf("only %d operations and %d objects", ops, len(h.acked))
	}
}

// TestFaultAtEachOperation lets each disk operation fail once, and then all of
// them from there on, and crashes at the end.
func TestFaultAtEachOperation(t *testing.T) {
	for _, once := range []bool{true, false} {
		for at, done := 0, false; !done; at++ {
			m := vfs.NewMem()
			s, err := open(m, "db/objects", testProcess("1-0"))
			if err != nil {
				t.Fatal(err)
			}
			h := newHistory()
			var what string
			n := 0
			m.SetHook(func(op vfs.Op) error {
				n++
				if n-1 == at || n > at && !once {
					if n-1 == at {
						what = fmt.Sprintf("operation %d, %s %s, fails (once: %v)", at, op.Kind, op.Path, once)
					}
					return syscall.EIO
				}
				return nil
			})
			h.run(t, s)
			done = n <= at
			m.SetHook(nil)
			if err := h.check(t, s); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			checkCrash(t, m, h, what)
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
