//go:build unix && !linux

package vfs

import (
	"errors"
	"math"
	"os"
	"syscall"
)

// writev writes all of bufs to f one after the other.
func writev(f *os.File, bufs [][]byte) (int64, error) {
	var total int64
	for _, b := range bufs {
		n, err := f.Write(b)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// linkCount returns how many names a file has.
func linkCount(f *os.File) (uint64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink), nil
	}
	return 1, nil
}

// startDirect says that there is no way past the page cache here.
func startDirect(*os.File) bool { return false }

func openDirect(*os.File) *os.File { return nil }

func wholeBlocks([]byte, int64) bool { return false }

func endDirect(*os.File) error { return nil }

func (f *diskFile) writeDirect(bufs [][]byte) (int64, error) { return writev(f.f, bufs) }

// Free is not to be had here: there is room.
func (d *DiskFS) Free(string) (int64, error) { return math.MaxInt64, nil }

// Spread is a hint that is of use on Linux only.
func (d *DiskFS) Spread(string) error { return nil }

func openPastCache(string) *os.File { return nil }

// preallocate is not to be had here.
func preallocate(*os.File, int64) error { return errors.ErrUnsupported }

// WriteBlocks implements BlockFile.
func (f *blockFile) WriteBlocks(bufs [][]byte, off int64) error {
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	all = append(all, make([]byte, blocks(int64(len(all)))-int64(len(all)))...)
	if _, err := f.f.WriteAt(all, off); err != nil {
		return err
	}
	return f.f.Sync()
}
