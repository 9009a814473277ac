package vfs

import (
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// maxIovecs is the most buffers that one writev takes (IOV_MAX of Linux).
const maxIovecs = 1024

// writev writes all of bufs to f, in as few system calls as IOV_MAX allows.
func writev(f *os.File, bufs [][]byte) (int64, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var total int64
	var skip int // bytes of bufs[0] that are written already
	vecs := make([][]byte, 0, min(len(bufs), maxIovecs))
	for {
		for len(bufs) > 0 && len(bufs[0]) == skip {
			bufs, skip = bufs[1:], 0
		}
		if len(bufs) == 0 {
			return total, nil
		}
		vecs = append(vecs[:0], bufs[0][skip:])
		vecs = append(vecs, bufs[1:min(len(bufs), maxIovecs)]...)
		var n int
		var werr error
		if err := conn.Control(func(fd uintptr) { n, werr = unix.Writev(int(fd), vecs) }); err != nil {
			return total, err
		}
		if errors.Is(werr, unix.EINTR) {
			continue
		}
		if werr != nil {
			return total, os.NewSyscallError("writev", werr)
		}
		if n == 0 {
			return total, io.ErrShortWrite
		}
		total += int64(n)
		for n > 0 { // a write may end in the middle of a buffer
			take := min(n, len(bufs[0])-skip)
			n, skip = n-take, skip+take
			if skip == len(bufs[0]) {
				bufs, skip = bufs[1:], 0
			}
		}
	}
}

// linkCount returns how many names a file has.
func linkCount(f *os.File) (uint64, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); err != nil {
		return 0, err
	}
	return uint64(st.Nlink), serr //nolint:unconvert // 32 bits on some systems
}

// Free returns the bytes that the disk of a directory has room for, as a
// process without privileges may use them.
func (d *DiskFS) Free(name string) (int64, error) {
	p, err := d.path("free", name)
	if err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p, &st); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize))) * st.Bsize, nil
}

// topDir is FS_TOPDIR_FL of the ioctls of inode flags (chattr +T).
const topDir = 0x00020000

// Spread asks that the directories made in one from now on be placed apart
// from each other on the disk, with all that is created in them. It is a hint,
// which ext4 heeds: it looks for a free inode near the directory's, and, on a
// disk without a journal, past each that was freed in the last minutes there.
func (d *DiskFS) Spread(name string) error {
	p, err := d.path("spread", name)
	if err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = conn.Control(func(fd uintptr) {
		var flags uint32
		if flags, ierr = unix.IoctlGetUint32(int(fd), unix.FS_IOC_GETFLAGS); ierr == nil && flags&topDir == 0 {
			ierr = unix.IoctlSetPointerInt(int(fd), unix.FS_IOC_SETFLAGS, int(flags|topDir))
		}
	})
	return errors.Join(err, os.NewSyscallError("ioctl", ierr))
}
