package vfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/varvelog/varve/internal/vfs"
)

func preallocate(t *testing.T, f vfs.FS, name string, size int64) vfs.BlockFile {
	t.Helper()
	file, err := f.Preallocate(name, size)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

// TestBlocks writes in place, several at a time, in pieces that fill no block
// and more than a chunk, while another handle reads.
func TestBlocks(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		const size = 8 << 20
		file := preallocate(t, f, "f", size)
		if _, err := f.Preallocate("f", 1); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Preallocate of a taken name: %v", err)
		}
		if _, err := f.Edit("g"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Edit of nothing: %v", err)
		}
		want := make([]byte, size)
		reader, err := f.Open("f")
		must(t, err)
		defer reader.Close()
		_, err = reader.ReadAt(make([]byte, size), 0) // what it may keep is old soon
		must(t, err)
		var wg sync.WaitGroup
		for i, n := range []int{1, 4096, 5000, 3<<20 + 17} {
			off := i << 20
			b := bytes.Repeat([]byte{byte(i + 1)}, n)
			copy(want[off:], b)
			wg.Go(func() {
				if err := file.WriteBlocks([][]byte{b[:n/3], nil, b[n/3:]}, int64(off)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		must(t, file.WriteBlocks(nil, 0))
		edit, err := f.Edit("f")
		must(t, err)
		_, err = edit.WriteAt([]byte("mark"), 100)
		must(t, errors.Join(err, edit.Sync(), edit.Close()))
		copy(want[100:], "mark")
		got := make([]byte, size)
		_, err = reader.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("the file has other bytes than were written")
		}
		must(t, file.Truncate(5000))
		if n, err := f.Size("f"); err != nil || n != 5000 {
			t.Errorf("Size after Truncate: %d, %v", n, err)
		}
	})
}

func TestLock(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		for range 2 {
			lock, err := f.Lock("lock")
			must(t, err)
			if _, err := f.Lock("lock"); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("second Lock: %v", err)
			}
			other, err := f.Lock("other")
			must(t, err)
			must(t, errors.Join(lock.Close(), other.Close()))
		}
		if _, err := f.Lock("no/lock"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lock in no directory: %v", err)
		}
	})
}

// TestCrashInPlace: what WriteBlocks wrote survives; what else was written may
// survive in part, and leaves what was durable around it.
func TestCrashInPlace(t *testing.T) {
	m := vfs.NewMem()
	file := preallocate(t, m, "f", 4*vfs.BlockSize)
	must(t, file.WriteBlocks([][]byte{bytes.Repeat([]byte{'a'}, vfs.BlockSize)}, 0))
	must(t, file.Sync())
	must(t, m.SyncDir(""))
	must(t, file.WriteBlocks([][]byte{bytes.Repeat([]byte{'b'}, vfs.BlockSize)}, vfs.BlockSize))
	_, err := file.WriteAt(bytes.Repeat([]byte{'c'}, 1000), 500)
	must(t, err)
	m.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpSync {
			return syscall.EIO
		}
		return nil
	})
	if err := file.WriteBlocks([][]byte{bytes.Repeat([]byte{'d'}, 2*vfs.BlockSize)}, 2*vfs.BlockSize); !errors.Is(err, syscall.EIO) {
		t.Fatalf("WriteBlocks: %v", err)
	}
	whole, torn := 0, 0
	for seed := range uint64(100) {
		got := read(t, m.Crash(rand.New(rand.NewPCG(seed, 0))), "f")
		a, b, d := got[:vfs.BlockSize], got[vfs.BlockSize:2*vfs.BlockSize], got[2*vfs.BlockSize:]
		if len(bytes.Trim([]byte(b), "b")) > 0 {
			t.Fatalf("seed %d: a durable block has %.100q", seed, b)
		}
		if rest := bytes.Trim([]byte(a[:500]+a[1500:]), "a"); len(rest) > 0 {
			t.Fatalf("seed %d: what was durable around an edit has %.100q", seed, rest)
		}
		switch len(bytes.Trim([]byte(d), "d")) {
		case 0:
			whole++
		default:
			torn++
		}
	}
	if whole == 0 || torn == 0 {
		t.Errorf("whole %d times, torn %d times; want both to happen", whole, torn)
	}
}

// TestSpareRoom reserves ahead what would leave the disk nearly full: it is
// refused, and leaves nothing.
func TestSpareRoom(t *testing.T) {
	disk, err := vfs.Disk(t.TempDir())
	must(t, err)
	free, err := disk.Free(".")
	must(t, err)
	if _, err := disk.Preallocate("f", free/3); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Preallocate of a third of what is free: %v", err)
	}
	names, err := disk.ReadDir(".")
	must(t, err)
	if len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}
