package vfs

import (
	"fmt"
	"io"
	"io/fs"
)

// memBlockFile is an open BlockFile of a Mem.
type memBlockFile struct{ memFile }

// Preallocate implements FS.
func (m *Mem) Preallocate(name string, size int64) (BlockFile, error) {
	if err := m.begin(OpPreallocate, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	parent, base, err := m.free(OpPreallocate, name)
	if err != nil {
		return nil, err
	}
	n := &node{links: 1, inPlace: true, data: make([]byte, size)}
	parent.add(base, n)
	return &memBlockFile{memFile{m: m, n: n, name: name, writable: true}}, nil
}

// Edit implements FS.
func (m *Mem) Edit(name string) (BlockFile, error) {
	if err := m.begin(OpEdit, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	n, err := m.findFile(OpEdit, name)
	if err != nil {
		return nil, err
	}
	if !n.inPlace {
		return nil, &fs.PathError{Op: string(OpEdit), Path: name, Err: fs.ErrInvalid}
	}
	return &memBlockFile{memFile{m: m, n: n, name: name, writable: true}}, nil
}

// WriteBlocks implements BlockFile. It is a write and a sync for the hook.
func (f *memBlockFile) WriteBlocks(bufs [][]byte, off int64) error {
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	all = append(all, make([]byte, blocks(int64(len(all)))-int64(len(all)))...)
	if _, err := f.WriteAt(all, off); err != nil {
		return err
	}
	if err := f.begin(OpSync); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	f.n.stable = writeInto(f.n.stable, all, off)
	return nil
}

// WriteAt implements BlockFile.
func (f *memBlockFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.begin(OpWrite); err != nil {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		if f.closed {
			return 0, err
		}
		half := p[:len(p)/2]
		f.n.data = writeInto(f.n.data, half, off)
		return len(half), err
	}
	defer f.m.mu.Unlock()
	f.n.data = writeInto(f.n.data, p, off)
	return len(p), nil
}

// writeInto writes p at off of b, which grows as it must.
func writeInto(b, p []byte, off int64) []byte {
	if grow := off + int64(len(p)) - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[off:], p)
	return b
}

// Truncate implements BlockFile.
func (f *memBlockFile) Truncate(size int64) error {
	if err := f.begin(OpTruncate); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if size > int64(len(f.n.data)) {
		return &fs.PathError{Op: string(OpTruncate), Path: f.name, Err: fs.ErrInvalid}
	}
	f.n.data = f.n.data[:size:size]
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	if err := m.begin(OpLock, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	n, err := m.find(OpLock, name)
	if err != nil {
		parent, base, err := m.free(OpLock, name)
		if err != nil {
			return nil, err
		}
		n = &node{links: 1}
		parent.add(base, n)
	}
	if m.locked[n] {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	m.locked[n] = true
	return &memLock{m, n}, nil
}

type memLock struct {
	m *Mem
	n *node
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locked, l.n)
	return nil
}
