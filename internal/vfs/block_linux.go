package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openPastCache opens a file for writes past the page cache; nil where the file
// system has none.
func openPastCache(path string) *os.File {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return f
}

func preallocate(f *os.File, size int64) error {
	err := control(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}

// WriteBlocks implements BlockFile: one pwritev2 with RWF_DSYNC, from aligned
// memory where it goes past the page cache.
func (f *blockFile) WriteBlocks(bufs [][]byte, off int64) error {
	vecs, free := gather(bufs)
	defer free()
	to := f.direct
	if to == nil {
		to = f.f
	}
	return control(to, func(fd int) error {
		for len(vecs) > 0 {
			n, err := unix.Pwritev2(fd, vecs, off, unix.RWF_DSYNC)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return os.NewSyscallError("pwritev2", err)
			}
			if n == 0 {
				return io.ErrShortWrite
			}
			off += int64(n)
			for n > 0 { // a write may end early, at a block
				take := min(n, len(vecs[0]))
				n -= take
				if vecs[0] = vecs[0][take:]; len(vecs[0]) == 0 {
					vecs = vecs[1:]
				}
			}
		}
		return nil
	})
}

// gather copies the buffers into whole blocks of aligned memory, which free
// gives back.
func gather(bufs [][]byte) (vecs [][]byte, free func()) {
	var used [][]byte
	var room []byte
	for _, b := range bufs {
		for len(b) > 0 {
			if len(room) == 0 {
				room = takeChunk()
				used = append(used, room)
				vecs = append(vecs, room[:0])
			}
			n := copy(room, b)
			b, room = b[n:], room[n:]
			last := len(vecs) - 1
			vecs[last] = vecs[last][:len(vecs[last])+n]
		}
	}
	if last := len(vecs) - 1; last >= 0 {
		n := len(vecs[last])
		vecs[last] = vecs[last][:blocks(int64(n))]
		clear(vecs[last][n:])
	}
	return vecs, func() {
		for _, chunk := range used {
			giveChunk(chunk)
		}
	}
}

// control calls fn with the descriptor of an open file.
func control(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = conn.Control(func(fd uintptr) { ferr = fn(int(fd)) })
	return errors.Join(err, ferr)
}
