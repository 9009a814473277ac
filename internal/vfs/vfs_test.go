package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/vfs"
)

// each runs a test on both file systems.
func each(t *testing.T, test func(t *testing.T, f vfs.FS)) {
	t.Run("disk", func(t *testing.T) {
		d, err := vfs.Disk(t.TempDir() + "/a/b")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		test(t, d)
	})
	t.Run("direct", func(t *testing.T) {
		d, err := vfs.Disk(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		d.Direct = true
		must(t, d.Spread(""))
		test(t, d)
	})
	t.Run("mem", func(t *testing.T) { test(t, vfs.NewMem()) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, f vfs.FS, name, content string) vfs.File {
	t.Helper()
	file, err := f.Create(name)
	must(t, err)
	_, err = file.Write([]byte(content))
	must(t, err)
	return file
}

func read(t *testing.T, f vfs.FS, name string) string {
	t.Helper()
	file, err := f.Open(name)
	must(t, err)
	defer file.Close()
	size, err := file.Size()
	must(t, err)
	b := make([]byte, size)
	_, err = file.ReadAt(b, 0)
	must(t, err)
	return string(b)
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		must(t, f.Mkdir("d"))
		must(t, f.Mkdir("d/e"))
		if err := f.Mkdir("d/e"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Mkdir of a taken name: %v", err)
		}
		must(t, create(t, f, "d/x", "xyz").Close())
		must(t, create(t, f, "d/e-", "").Close())
		must(t, create(t, f, "d/e0", "").Close())
		if _, err := f.Create("d/x"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create of a taken name: %v", err)
		}
		if _, err := f.Create("nope/x"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Create in no directory: %v", err)
		}
		must(t, f.Link("d/x", "d/y"))
		if err := f.Link("d/x", "d/e0"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Link to a taken name: %v", err)
		}
		must(t, f.Remove("d/x"))
		if err := f.Remove("d/x"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Remove of nothing: %v", err)
		}
		if err := f.Remove("d"); err == nil {
			t.Error("Remove of a full directory succeeded")
		}
		names, err := f.ReadDir("d")
		must(t, err)
		if diff := cmp.Diff([]string{"e-", "e/", "e0", "y"}, names); diff != "" {
			t.Errorf("ReadDir (-want +got):\n%s", diff)
		}
		if got := read(t, f, "d/y"); got != "xyz" {
			t.Errorf("content %q", got)
		}
		if _, err := f.Open("d"); !errors.Is(err, syscall.EISDIR) {
			t.Errorf("Open of a directory: %v", err)
		}
		if _, err := f.Size("d"); !errors.Is(err, syscall.EISDIR) {
			t.Errorf("Size of a directory: %v", err)
		}
		if err := f.Mkdir("d/y/z"); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Mkdir below a file: %v", err)
		}
		for _, bad := range []string{"..", "/x", "a/../../b", "d/"} {
			if _, err := f.Create(bad); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("Create(%q): %v", bad, err)
			}
		}
		must(t, f.SyncDir("d"))
		must(t, f.SyncDir(""))
	})
}

func TestWritevAndLinked(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		file, err := f.Create("f")
		must(t, err)
		defer file.Close()
		var bufs [][]byte
		var want strings.Builder
		for i := range 3000 { // more than one writev takes, with empty ones between
			b := fmt.Appendf(nil, "%d,", i)
			bufs = append(bufs, b, nil)
			want.Write(b)
		}
		n, err := file.Writev(bufs)
		must(t, err)
		if n != int64(want.Len()) || read(t, f, "f") != want.String() {
			t.Errorf("Writev wrote %d bytes, want %d", n, want.Len())
		}
		if n, err := file.ReadAt(make([]byte, 10), int64(want.Len())-3); n != 3 || err != io.EOF {
			t.Errorf("ReadAt over the end: %d, %v", n, err)
		}
		must(t, file.Sync())
		for _, want := range []bool{true, false} {
			if !want {
				must(t, f.Remove("f"))
			}
			if got, err := file.Linked(); err != nil || got != want {
				t.Errorf("Linked: %v, %v, want %v", got, err, want)
			}
		}
	})
}

// TestWrites writes in several calls, with ends that fill no block and some
// that do.
func TestWrites(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range 60 {
			name := fmt.Sprint("f", i)
			file, err := f.Create(name)
			must(t, err)
			var want []byte
			for range 1 + rng.IntN(4) {
				var bufs [][]byte
				for range rng.IntN(5) {
					b := make([]byte, []int{rng.IntN(1_000_000), 4096, 1 << 20, rng.IntN(5000), 0}[rng.IntN(5)])
					for j := range b {
						b[j] = byte(i + j + j>>12)
					}
					bufs = append(bufs, b)
					want = append(want, b...)
				}
				_, err := file.Writev(bufs)
				must(t, err)
			}
			must(t, file.Sync())
			got := make([]byte, len(want))
			_, err = file.ReadAt(got, 0) // the same file may be open past the cache
			must(t, err)
			if size, err := f.Size(name); err != nil || size != int64(len(want)) || !bytes.Equal(got, want) {
				t.Fatalf("file %d has %d bytes, want %d, or other ones", i, size, len(want))
			}
			if len(want) > 0 {
				at := rng.IntN(len(want))
				_, err = file.ReadAt(got[at:], int64(at))
				must(t, err)
			}
			must(t, file.Close())
		}
	})
}

// TestDiskSyncDirFollowsNewDirectory: a handle kept of a removed directory
// must not stand for the new one of that name.
func TestDiskSyncDirFollowsNewDirectory(t *testing.T) {
	d, err := vfs.Disk(t.TempDir())
	must(t, err)
	defer d.Close()
	for range 2 {
		must(t, d.Mkdir("x"))
		must(t, d.SyncDir("x"))
		must(t, d.Remove("x"))
	}
	if err := d.SyncDir("x"); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, vfs.ErrNotSynced) {
		t.Errorf("SyncDir of a removed directory: %v", err)
	}
	for i := range 200 { // more than are kept open
		name := fmt.Sprintf("d%d", i)
		must(t, d.Mkdir(name))
		must(t, d.SyncDir(name))
	}
}

// TestCrash checks what must survive, and that what need not does both.
func TestCrash(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "synced", strings.Repeat("s", 100))
	must(t, f.Sync())
	must(t, m.SyncDir(""))
	_, err := f.Write([]byte(strings.Repeat("u", 300)))
	must(t, err)
	create(t, m, "new", "")
	must(t, m.Remove("synced"))
	must(t, m.Link("new", "linked"))

	seen := map[string]bool{}
	for seed := range uint64(200) {
		c := m.Crash(rand.New(rand.NewPCG(seed, 0)))
		names, err := c.ReadDir("")
		must(t, err)
		seen[strings.Join(names, " ")] = true
		if size, err := c.Size("synced"); err == nil {
			got := read(t, c, "synced")
			if got[:100] != strings.Repeat("s", 100) {
				t.Fatalf("seed %d: synced content is gone: %q", seed, got)
			}
			seen[fmt.Sprint("whole ", strings.Trim(got, "su") == "" && size == 400)] = true
		}
	}
	for _, want := range []string{"", "synced", "linked new synced", "whole true", "whole false"} {
		if !seen[want] {
			t.Errorf("no crash left %q", want)
		}
	}
	must(t, m.SyncDir(""))
	names, err := m.Crash(rand.New(rand.NewPCG(0, 0))).ReadDir("")
	must(t, err)
	if diff := cmp.Diff([]string{"linked", "new"}, names); diff != "" {
		t.Errorf("after SyncDir (-want +got):\n%s", diff)
	}
}

// TestFailedSyncIsForgotten: after a failed sync, a later one that succeeds
// saves nothing of what the failed one covered.
func TestFailedSyncIsForgotten(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "f", strings.Repeat("x", 1000))
	fail := true
	m.SetHook(func(op vfs.Op) error {
		if fail && (op.Kind == vfs.OpSync || op.Kind == vfs.OpSyncDir) {
			return syscall.EIO
		}
		return nil
	})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync: %v", err)
	}
	if err := m.SyncDir(""); !errors.Is(err, syscall.EIO) {
		t.Fatalf("SyncDir: %v", err)
	}
	fail = false
	must(t, f.Sync())
	must(t, m.SyncDir(""))
	var absent, torn bool
	for seed := range uint64(100) {
		c := m.Crash(rand.New(rand.NewPCG(seed, 0)))
		if size, err := c.Size("f"); err != nil {
			absent = true
		} else if size < 1000 {
			torn = true
		}
	}
	if !absent || !torn {
		t.Errorf("absent %v, torn %v; want both to happen", absent, torn)
	}
}
