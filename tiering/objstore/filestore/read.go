package filestore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// maxOpenFiles and maxOpenPacks bound the files that a Store keeps open for
// reading: a segment in use is read in many ranges.
const (
	maxOpenFiles = 256
	maxOpenPacks = 160 // more than wal.backlog.max.bytes of 8 GiB has
)

// ReadAt implements objstore.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error) {
	if err := objstore.ValidateKey(key); err != nil {
		return 0, 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	n, size, err = s.readAt(s.path(key), p, off)
	if absent(err) || errors.Is(err, errNoPack) { // the second one: deleted since its name was read
		if err := s.settle(ctx, path.Dir(s.path(key))); err != nil {
			return 0, 0, fmt.Errorf("read object %s: %w", key, err)
		}
		n, size, err = s.readAt(s.path(key), p, off)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if absent(err) {
			err = objstore.ErrNotFound
		}
		err = fmt.Errorf("read object %s: %w", key, err)
	}
	return n, size, err
}

func (s *Store) readAt(name string, p []byte, off int64) (n int, size int64, err error) {
	h, err := s.files.acquire(name)
	if err != nil {
		return 0, 0, err
	}
	begin, size, release := int64(0), h.size, s.files.release
	if h.packed {
		s.files.release(h)
		var rec pack.Record
		if h, rec, err = s.record(name, h.id); err != nil {
			return 0, 0, err
		}
		begin, size, release = rec.Body(), rec.Size, s.packs.release
	}
	defer release(h)
	from, count, eof := objstore.Range(size, off, len(p))
	// Whole blocks are read past the page cache: what follows an object is zeros in a pack, else the file's end.
	want := min(len(p), (count+pack.Block-1)&^(pack.Block-1))
	n, err = h.file.ReadAt(p[:want], begin+from)
	if n = min(n, count); n == count { // objects never grow or shrink
		err = nil
	} else if errors.Is(err, io.EOF) {
		err = fmt.Errorf("file has fewer than the object's %d bytes: %w", size, io.ErrUnexpectedEOF)
	}
	if err == nil && eof {
		err = io.EOF
	}
	return n, size, err
}

// handle is the file of an object or a pack, open for reading.
type handle struct {
	name string
	file vfs.File
	size int64

	packed  bool    // the file is a reference to a pack
	id      pack.ID // of that pack
	records records // of a pack

	refs    int           // readers at this moment
	dropped bool          // no longer in the map: the last reader closes it
	elem    *list.Element // place in handles.order
}

// handles keeps the files that were read last open.
type handles struct {
	fs    vfs.FS
	limit int

	mu    sync.Mutex // also owns the handles' fields below size
	open  map[string]*handle
	order *list.List // of *handle, the one used last in front
}

func (h *handles) init(fs vfs.FS, limit int) {
	h.fs, h.limit, h.open, h.order = fs, limit, make(map[string]*handle), list.New()
}

// acquire returns a file open for reading. The caller releases it.
func (h *handles) acquire(name string) (*handle, error) {
	h.mu.Lock()
	f := h.open[name]
	if f != nil {
		f.refs++
		h.order.MoveToFront(f.elem)
	}
	h.mu.Unlock()
	if f != nil {
		if linked, err := f.file.Linked(); err == nil && linked {
			return f, nil
		} // else somebody, maybe another process, deleted the object
		h.drop(name)
		h.release(f)
	}
	file, err := h.fs.Open(name)
	if err != nil {
		return nil, err
	}
	f = &handle{name: name, file: file, refs: 1}
	if f.size, err = file.Size(); err == nil && f.size == pack.RefSize {
		err = f.parseRef()
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	if f.packed { // it has other names, so its file can't tell whether this one is still there
		f.dropped = true
	} else {
		h.add(f)
	}
	return f, nil
}

// parseRef looks whether the file is a reference to a pack.
func (f *handle) parseRef() error {
	b := make([]byte, pack.RefSize)
	if _, err := f.file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	f.id, f.packed = pack.ParseRef(b)
	return nil
}

// add keeps a file open, and drops those that were not used for longest.
func (h *handles) add(f *handle) {
	h.mu.Lock()
	var closing []*handle
	if old := h.open[f.name]; old != nil { // another reader was faster
		closing = append(closing, h.remove(old)...)
	}
	h.open[f.name] = f
	f.elem = h.order.PushFront(f)
	for h.order.Len() > h.limit {
		closing = append(closing, h.remove(h.order.Back().Value.(*handle))...)
	}
	h.mu.Unlock()
	closeAll(closing)
}

// drop forgets a file; it is closed when nobody reads it.
func (h *handles) drop(name string) {
	h.mu.Lock()
	var closing []*handle
	if f := h.open[name]; f != nil {
		closing = h.remove(f)
	}
	h.mu.Unlock()
	closeAll(closing)
}

// remove takes a file out of the map, under the lock, and returns it if the
// caller has to close it.
func (h *handles) remove(f *handle) []*handle {
	delete(h.open, f.name)
	h.order.Remove(f.elem)
	f.dropped = true
	if f.refs == 0 {
		return []*handle{f}
	}
	return nil
}

// release ends a use of a file.
func (h *handles) release(f *handle) {
	h.mu.Lock()
	f.refs--
	last := f.refs == 0 && f.dropped
	h.mu.Unlock()
	if last {
		closeAll([]*handle{f})
	}
}

func (h *handles) close() {
	h.mu.Lock()
	var closing []*handle
	for _, f := range h.open {
		closing = append(closing, h.remove(f)...)
	}
	h.mu.Unlock()
	closeAll(closing)
}

// closeAll closes files that were only read, so there is no error to heed.
func closeAll(files []*handle) {
	for _, f := range files {
		_ = f.file.Close()
	}
}
