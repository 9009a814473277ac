package vfs

import (
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Writes with O_DIRECT are of whole blocks from memory that is aligned as
// blocks are: pieces are gathered in a chunk, which stays in the processor's
// cache. The rest of a file that is no whole block goes through the page cache.
const (
	directBlock = BlockSize // no disk's blocks are larger
	directChunk = 1 << 20   // bytes of one write
	directMin   = 4 * directBlock
	directRead  = 16 * directBlock // the least read
)

// freeChunks holds free chunks of the process. Unlike a sync.Pool it keeps them
// over collections of garbage, which are frequent under load.
var freeChunks = make(chan []byte, 4)

// takeChunk returns directChunk bytes, aligned as blocks are.
func takeChunk() []byte {
	select {
	case b := <-freeChunks:
		return b
	default:
	}
	b := make([]byte, directChunk+directBlock)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (directBlock - 1)
	return b[skip : skip+directChunk : skip+directChunk]
}

// giveChunk gives back what takeChunk returned.
func giveChunk(b []byte) {
	select {
	case freeChunks <- b:
	default:
	}
}

// startDirect makes the writes to a new file go past the page cache, and says
// whether the file system can do that.
func startDirect(f *os.File) bool { return setDirect(f, unix.O_DIRECT) == nil }

// openDirect opens an open file again, for reads past the page cache; nil where
// the file system can't do that.
func openDirect(f *os.File) *os.File {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	var r *os.File
	_ = conn.Control(func(fd uintptr) { // an error means that f is closed
		// By its number, not by its name, which may be another file's by now.
		if r, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(fd)), os.O_RDONLY|unix.O_DIRECT, 0); err != nil {
			r = nil
		}
	})
	return r
}

// wholeBlocks tells whether a read is one that can go past the page cache, and
// large enough to gain by it.
func wholeBlocks(p []byte, off int64) bool {
	return len(p) >= directRead && (uintptr(unsafe.Pointer(&p[0]))|uintptr(len(p))|uintptr(off))&(directBlock-1) == 0
}

// endDirect makes reads and writes go through the page cache again.
func endDirect(f *os.File) error { return setDirect(f, 0) }

// writeDirect writes whole blocks past the page cache, and the bytes that fill
// none plainly, like all that follows them.
func (f *diskFile) writeDirect(bufs [][]byte) (int64, error) {
	var size, total int64
	for _, b := range bufs {
		size += int64(len(b))
	}
	if size >= directMin {
		chunk := takeChunk()
		defer giveChunk(chunk)
		n, rest, err := f.writeBlocks(chunk, bufs)
		if err != nil || len(rest) == 0 {
			return n, err
		}
		total, bufs = n, [][]byte{rest}
	}
	f.direct = false
	if err := endDirect(f.f); err != nil {
		return total, err
	}
	n, err := writev(f.f, bufs)
	return total + n, err
}

// writeBlocks writes the whole blocks of bufs through chunk, and returns what
// is left for less than one, in chunk.
func (f *diskFile) writeBlocks(chunk []byte, bufs [][]byte) (total int64, rest []byte, err error) {
	fill := 0
	for _, b := range bufs {
		for len(b) > 0 {
			n := copy(chunk[fill:], b)
			b, fill = b[n:], fill+n
			if fill < len(chunk) {
				continue
			}
			n, err := f.f.Write(chunk)
			total += int64(n)
			if err != nil {
				return total, nil, err
			}
			fill = 0
		}
	}
	whole := fill &^ (directBlock - 1)
	if whole > 0 {
		n, err := f.f.Write(chunk[:whole])
		total += int64(n)
		if err != nil {
			return total, nil, err
		}
	}
	return total, chunk[whole:fill], nil
}

// setDirect sets or clears O_DIRECT of an open file.
func setDirect(f *os.File, value int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = conn.Control(func(fd uintptr) {
		var flags int
		if flags, ferr = unix.FcntlInt(fd, unix.F_GETFL, 0); ferr == nil {
			_, ferr = unix.FcntlInt(fd, unix.F_SETFL, flags&^unix.O_DIRECT|value)
		}
	})
	return errors.Join(err, ferr)
}
