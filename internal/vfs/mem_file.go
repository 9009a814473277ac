package vfs

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
)

// memFile is an open file of a Mem.
type memFile struct {
	m        *Mem
	n        *node
	name     string
	writable bool
	closed   bool // under m.mu
}

// begin calls the hook and returns with the lock held unless it fails.
func (f *memFile) begin(kind OpKind) error {
	if err := f.m.begin(kind, f.name); err != nil {
		return err
	}
	if f.closed {
		f.m.mu.Unlock()
		return &fs.PathError{Op: string(kind), Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

func (f *memFile) Write(p []byte) (int, error) {
	n, err := f.Writev([][]byte{p})
	return int(n), err
}

func (f *memFile) Writev(bufs [][]byte) (int64, error) {
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	if err := f.begin(OpWrite); err != nil {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		if f.closed || !f.writable {
			return 0, err
		}
		half := all[:len(all)/2]
		f.n.data = append(f.n.data, half...)
		return int64(len(half)), err
	}
	defer f.m.mu.Unlock()
	if !f.writable {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: fs.ErrPermission}
	}
	f.n.data = append(f.n.data, all...)
	return int64(len(all)), nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(OpReadAt); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off < 0 {
		return 0, &fs.PathError{Op: "readat", Path: f.name, Err: fs.ErrInvalid}
	}
	if off >= int64(len(f.n.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Sync() error {
	if err := f.begin(OpSync); err != nil {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		f.n.lost = true
		return err
	}
	defer f.m.mu.Unlock()
	f.n.sync()
	return nil
}

// sync makes the content durable, under the lock.
func (n *node) sync() {
	switch {
	case n.lost:
	case n.inPlace:
		n.stable = bytes.Clone(n.data)
	default:
		n.synced = len(n.data)
	}
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memFile) Linked() (bool, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.n.links > 0, nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	return nil
}

// crashBlock is the unit in bytes in which unsynced content survives or not.
const crashBlock = 64

// Crash returns what the disk may hold after a loss of power now: all that
// was synced; of the rest, as rng decides, each directory entry as it was or
// as it is, and of each file's unsynced content any length with any of its
// blocks, zeros or what was durable there in place of the others. Nothing is locked. m itself goes on as if nothing had
// happened; a test that is done with it just leaves it. The hook is not taken over.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := crasher{rng: rng, done: map[*node]*node{}}
	return newMem(c.crash(m.root))
}

// crasher copies the survivors; done keeps a file with two names one file.
type crasher struct {
	rng  *rand.Rand
	done map[*node]*node
}

func (c *crasher) crash(n *node) *node {
	if old := c.done[n]; old != nil {
		return old
	}
	if n.names == nil {
		f := c.crashFile(n)
		c.done[n] = f
		return f
	}
	d := newDir()
	c.done[n] = d
	for _, base := range sortedNames(n.names, n.durable) {
		child := n.durable[base]
		if now := n.names[base]; now != child && c.rng.IntN(2) == 0 {
			child = now
		}
		if child == nil {
			continue
		}
		survivor := c.crash(child)
		if survivor.names == nil {
			survivor.links++
		}
		d.names[base] = survivor
		d.durable[base] = survivor
	}
	return d
}

func (c *crasher) crashFile(n *node) *node {
	if n.inPlace {
		data := c.crashInPlace(n)
		return &node{inPlace: true, data: data, stable: bytes.Clone(data)}
	}
	if c.rng.IntN(4) == 0 { // the likeliest: all had been written back
		return &node{data: append([]byte(nil), n.data...), synced: len(n.data)}
	}
	size := n.synced + c.rng.IntN(len(n.data)-n.synced+1)
	data := make([]byte, size)
	copy(data, n.data[:n.synced])
	for at := n.synced; at < size; at += crashBlock {
		if c.rng.IntN(2) == 0 {
			copy(data[at:min(at+crashBlock, size)], n.data[at:])
		}
	}
	return &node{data: data, synced: size}
}

// crashInPlace returns what is left of a file that is written in place: of
// each block what was durable or what was written, and as much of a new length.
func (c *crasher) crashInPlace(n *node) []byte {
	if c.rng.IntN(4) == 0 {
		return bytes.Clone(n.data)
	}
	low, high := min(len(n.stable), len(n.data)), max(len(n.stable), len(n.data))
	data := make([]byte, low+c.rng.IntN(high-low+1))
	copy(data, n.stable)
	for at := 0; at < min(len(data), len(n.data)); at += crashBlock {
		end := min(at+crashBlock, len(data))
		if c.rng.IntN(2) == 0 {
			copy(data[at:end], n.data[at:])
		}
	}
	return data
}
