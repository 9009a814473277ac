package filestore_test

import (
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
	"github.com/varvelog/varve/tiering/objstore/objtest"
)

func openStore(t *testing.T, f vfs.FS) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(f, "data/objects")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func disk(t *testing.T) *vfs.DiskFS {
	t.Helper()
	d, err := vfs.Disk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestConformanceOnDisk(t *testing.T) {
	objtest.Run(t, func(t *testing.T) objstore.Store { return openStore(t, disk(t)) })
}

func TestConformanceOnDiskDirectly(t *testing.T) {
	objtest.Run(t, func(t *testing.T) objstore.Store {
		d := disk(t)
		d.Direct = true
		return openStore(t, d)
	})
}

func TestConformanceInMemory(t *testing.T) {
	objtest.Run(t, func(t *testing.T) objstore.Store { return openStore(t, vfs.NewMem()) })
}

func TestFaultConformance(t *testing.T) {
	objtest.RunFaults(t, func(t *testing.T) (objstore.Store, objtest.Faults) { return objtest.WithFaults(openStore(t, disk(t))) })
}

func openPacked(t *testing.T, f vfs.FS, size int64) *filestore.Store {
	t.Helper()
	s, err := filestore.OpenPacked(f, "data/objects", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestConformancePacked(t *testing.T) {
	objtest.Run(t, func(t *testing.T) objstore.Store { return openPacked(t, disk(t), 1<<20) })
}

func TestConformancePackedInMemory(t *testing.T) {
	objtest.Run(t, func(t *testing.T) objstore.Store { return openPacked(t, vfs.NewMem(), 64<<10) })
}

// TestTwoStores: what one process deletes and writes, another sees at once,
// although it keeps files open.
func TestTwoStores(t *testing.T) {
	d := disk(t)
	a, b := openStore(t, d), openStore(t, d)
	for i := range 3 {
		want := fmt.Sprint("content ", i)
		if err := a.Put(t.Context(), "x/k", objstore.Buffers{[]byte(want)}); err != nil {
			t.Fatal(err)
		}
		if err := b.Put(t.Context(), "x/k", objstore.Buffers{[]byte("other")}); !errors.Is(err, objstore.ErrExists) {
			t.Errorf("Put by the other: %v", err)
		}
		p := make([]byte, len(want))
		for range 2 {
			if _, _, err := b.ReadAt(t.Context(), "x/k", p, 0); err != nil || string(p) != want {
				t.Errorf("ReadAt: %q, %v, want %q", p, err, want)
			}
		}
		if err := a.Delete(t.Context(), "x/k"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.ReadAt(t.Context(), "x/k", p, 0); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("ReadAt of what the other deleted: %v", err)
		}
	}
}

// TestFolderOrObject: a name is one or the other, and says so.
func TestFolderOrObject(t *testing.T) {
	s := openStore(t, disk(t))
	for _, key := range []string{"a/b", "c"} {
		if err := s.Put(t.Context(), key, objstore.Buffers{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "c/d", "c/d/e"} {
		if err := s.Put(t.Context(), key, objstore.Buffers{}); !errors.Is(err, objstore.ErrInvalidKey) {
			t.Errorf("Put(%q): %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q): %v", key, err)
		}
	}
}

// TestManyOpenFiles reads more objects than are kept open, from many readers.
func TestManyOpenFiles(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	const objects = 700
	for i := range objects {
		if err := s.Put(t.Context(), fmt.Sprint("o/", i), objstore.Buffers{fmt.Appendf(nil, "%04d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for r := range 4 {
		wg.Go(func() {
			p := make([]byte, 4)
			for i := range objects * 2 {
				n := (i*(r+1) + i/3) % objects
				if _, _, err := s.ReadAt(t.Context(), fmt.Sprint("o/", n), p, 0); err != nil || string(p) != fmt.Sprintf("%04d", n) {
					t.Errorf("object %d: %q, %v", n, p, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestSharedFsync: puts into one folder share its fsyncs, but each has one
// that began after its link.
func TestSharedFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		s := openStore(t, m)
		put := func(i int) {
			if err := s.Put(t.Context(), fmt.Sprint("dir/", i), objstore.Buffers{}); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
		}
		put(0)
		gate := make(chan struct{})
		var syncs, acked atomic.Int64
		m.SetHook(func(op vfs.Op) error {
			if op.Kind == vfs.OpSyncDir {
				syncs.Add(1)
				<-gate
			}
			return nil
		})
		start := func(from, to int) {
			for i := from; i < to; i++ {
				go func() { put(i); acked.Add(1) }()
			}
			synctest.Wait()
		}
		start(1, 2) // its fsync is under way when the others link
		start(2, 12)
		if syncs.Load() != 1 || acked.Load() != 0 {
			t.Errorf("%d fsyncs, %d acknowledged; want 1, 0", syncs.Load(), acked.Load())
		}
		gate <- struct{}{}
		synctest.Wait()
		if syncs.Load() != 2 || acked.Load() != 1 {
			t.Errorf("%d fsyncs, %d acknowledged; want 2, 1", syncs.Load(), acked.Load())
		}
		gate <- struct{}{}
		synctest.Wait()
		if syncs.Load() != 2 || acked.Load() != 11 {
			t.Errorf("%d fsyncs, %d acknowledged; want 2, 11", syncs.Load(), acked.Load())
		}
	})
}

// TestDiskFull: an error that says so, no file left behind, and puts succeed
// once there is room.
func TestDiskFull(t *testing.T) {
	m := vfs.NewMem()
	s := openStore(t, m)
	for _, kind := range []vfs.OpKind{vfs.OpMkdir, vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpLink} {
		m.SetHook(func(op vfs.Op) error {
			if op.Kind == kind {
				return syscall.ENOSPC
			}
			return nil
		})
		key := fmt.Sprintf("f-%s/1", kind)
		if err := s.Put(t.Context(), key, objstore.Buffers{[]byte("x")}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Put with a full disk at %s: %v", kind, err)
		}
		m.SetHook(nil)
		folders, err := m.ReadDir("data/objects/~tmp")
		for _, folder := range folders {
			names, err := m.ReadDir(path.Join("data/objects/~tmp", folder))
			if err != nil || len(names) != 0 {
				t.Errorf("temporary files after %s failed: %q, %v", kind, names, err)
			}
		}
		if err != nil || len(folders) > 1 {
			t.Errorf("folders of temporary files: %q, %v", folders, err)
		}
		if err := s.Put(t.Context(), key, objstore.Buffers{[]byte("x")}); err != nil {
			t.Errorf("Put after %s failed: %v", kind, err)
		}
	}
}

// TestTmpFolders: the folders of temporary files are left behind one by one.
func TestTmpFolders(t *testing.T) {
	m := vfs.NewMem()
	s := openStore(t, m)
	for i := range 5000 {
		if err := s.Put(t.Context(), fmt.Sprint("o/", i), objstore.Buffers{}); err != nil {
			t.Fatal(err)
		}
	}
	if folders, err := m.ReadDir("data/objects/~tmp"); err != nil || len(folders) > 3 {
		t.Errorf("folders: %q, %v", folders, err)
	}
}
