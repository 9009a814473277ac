package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// blockFile is a BlockFile of a DiskFS.
type blockFile struct {
	f      *os.File // through the page cache
	direct *os.File // past it; nil where the file system can't
}

// spareRoom is how many times as much as is preallocated must be free.
const spareRoom = 4

// Preallocate implements FS. It fails with ENOSPC where the disk has little
// more room than that: what is reserved ahead must not take it from what is to be written now.
func (d *DiskFS) Preallocate(name string, size int64) (BlockFile, error) {
	if free, err := d.Free(path.Dir(name)); err == nil && free/spareRoom < size {
		return nil, &fs.PathError{Op: "preallocate", Path: name, Err: syscall.ENOSPC}
	}
	f, err := d.editable("preallocate", name, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := preallocate(f.f, size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.f.Name()))
	}
	return f, nil
}

// Edit implements FS.
func (d *DiskFS) Edit(name string) (BlockFile, error) {
	f, err := d.editable("edit", name, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *DiskFS) editable(op, name string, flags int) (*blockFile, error) {
	p, err := d.path(op, name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p, os.O_RDWR|flags, 0o644)
	if err != nil {
		return nil, err
	}
	return &blockFile{f: f, direct: openPastCache(p)}, nil
}

func (f *blockFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f *blockFile) Truncate(size int64) error                { return f.f.Truncate(size) }
func (f *blockFile) Sync() error                              { return f.f.Sync() }

func (f *blockFile) Close() error {
	err := f.f.Close()
	if f.direct != nil {
		err = errors.Join(err, f.direct.Close())
	}
	return err
}

// blocks returns how many bytes the blocks of n bytes have.
func blocks(n int64) int64 { return (n + BlockSize - 1) &^ (BlockSize - 1) }

// Lock implements FS. The lock is one of flock(2): it belongs to the open file,
// so it also keeps apart those of one process.
func (d *DiskFS) Lock(name string) (io.Closer, error) {
	p, err := d.path("lock", name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
