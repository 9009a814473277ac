package objcache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/varvelog/varve/internal/vfs"
)

// Bounds of the disk layer's files, each of which is kept open.
const (
	maxDiskFiles   = 256
	maxFileExtents = 4096
	minFileBytes   = 1 << 20
	fileSuffix     = ".cache"
)

// disk is the disk layer: extents appended to the newest of a row of files.
// Whoever reads looks the extent up under the lock and reads without it; when
// the file is removed meanwhile, the read fails and counts as a miss.
type disk struct {
	fs        vfs.FS
	limit     int64 // bytes of all files
	fileLimit int64 // bytes after which a new file is begun
	log       *slog.Logger
	queue     queue

	cur  *diskFile // the file being appended to; owned by run
	next uint64    // number of the next file; owned by run
	sick bool      // the last write failed; owned by run

	mu      sync.Mutex
	index   map[string][]extent // sorted by off
	files   []*diskFile         // the oldest first
	size    int64               // bytes of all files
	extents int64
	written int64
	errors  int64
}

// diskFile is a file of the layer.
type diskFile struct {
	name string
	f    vfs.File
	size int64    // under disk.mu
	keys []string // of its extents, one each; under disk.mu
}

func openDisk(files vfs.FS, limit int64, log *slog.Logger) (*disk, error) {
	d := &disk{
		fs: files, limit: limit, fileLimit: max(limit/(maxDiskFiles/2), min(minFileBytes, limit/8)),
		log: log, index: make(map[string][]extent),
	}
	d.queue.init(min(maxQueue, limit/4))
	names, err := files.ReadDir("")
	if err != nil {
		return nil, err
	}
	for _, name := range names { // sorted, so the oldest first
		base, ok := strings.CutSuffix(name, fileSuffix)
		n, err := strconv.ParseUint(base, 16, 64)
		if !ok || err != nil || len(base) != 16 || n == 1<<64-1 {
			continue // a stranger's
		}
		d.next = n + 1
		if err := d.scan(name); err != nil {
			return nil, fmt.Errorf("scan %s: %w", name, err)
		}
	}
	d.makeRoom(0)
	return d, nil
}

// scan takes up the extents of a file that an earlier cache left.
func (d *disk) scan(name string) error {
	f, err := d.fs.Open(name)
	if err != nil {
		return err
	}
	file := &diskFile{name: name, f: f}
	if file.size, err = f.Size(); err != nil {
		return errors.Join(err, f.Close())
	}
	d.mu.Lock()
	d.files = append(d.files, file)
	d.size += file.size
	d.mu.Unlock()
	head := make([]byte, maxExtentHead)
	for pos := int64(0); len(file.keys) < maxFileExtents; {
		n, _ := f.ReadAt(head, pos)
		h, err := decodeExtentHead(head[:n])
		if err != nil || pos+h.size()+h.n > file.size {
			return nil //nolint:nilerr // the end, or what a crash left of it
		}
		d.add(h, file, pos+h.size())
		pos += h.size() + h.n
	}
	return nil
}

// add enters an extent in the index.
func (d *disk) add(h extentHead, file *diskFile, pos int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.index[h.key]
	at, _ := slices.BinarySearchFunc(list, h.off, func(e extent, off int64) int { return cmp.Compare(e.off, off) })
	d.index[h.key] = slices.Insert(list, at, extent{file: file, off: h.off, n: h.n, pos: pos, sums: h.sums})
	file.keys = append(file.keys, h.key)
	d.extents++
}

// find returns an extent that covers a range.
func (d *disk) find(k Range) (extent, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.index[k.Key] {
		if e.off > k.Off {
			break
		}
		if e.covers(k.Off, k.N) {
			return e, true
		}
	}
	return extent{}, false
}

// read returns a range, or nil when no extent has all of it, unharmed.
func (d *disk) read(k Range) (*buffer, []byte) {
	e, ok := d.find(k)
	if !ok {
		return nil, nil
	}
	buf, view, err := e.read(k.Off, k.N)
	if err == nil {
		return buf, view
	}
	if !errors.Is(err, fs.ErrClosed) { // else evicted since
		d.fail("read", err)
		d.discard(k.Key, e)
	}
	return nil, nil
}

// fail counts and logs a disk operation that failed.
func (d *disk) fail(what string, err error) {
	d.mu.Lock()
	d.errors++
	d.mu.Unlock()
	d.log.Warn("object cache's disk failed; going on without what it held there", "operation", what, "error", err)
}

// discard takes a bad extent out of the index.
func (d *disk) discard(key string, bad extent) {
	d.deleteExtents(key, func(e extent) bool { return e.file == bad.file && e.pos == bad.pos })
}

func (d *disk) forget(key string) {
	d.queue.forget(key)
	d.deleteExtents(key, func(extent) bool { return true })
}

func (d *disk) deleteExtents(key string, which func(extent) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deleteLocked(key, which)
}

func (d *disk) deleteLocked(key string, which func(extent) bool) {
	old := len(d.index[key])
	left := slices.DeleteFunc(d.index[key], which)
	d.extents -= int64(old - len(left))
	if len(left) == 0 {
		delete(d.index, key)
		return
	}
	d.index[key] = left
}

// makeRoom removes the oldest files until n more bytes, in one more file, fit.
func (d *disk) makeRoom(n int64) {
	for {
		d.mu.Lock()
		if len(d.files) == 0 || d.size+n <= d.limit && len(d.files) < maxDiskFiles {
			d.mu.Unlock()
			return
		}
		oldest := d.files[0]
		d.files = d.files[1:]
		d.size -= oldest.size
		for _, key := range oldest.keys {
			d.deleteLocked(key, func(e extent) bool { return e.file == oldest })
		}
		d.mu.Unlock()
		if oldest == d.cur {
			d.cur = nil
		}
		if err := errors.Join(d.fs.Remove(oldest.name), oldest.f.Close()); err != nil {
			d.fail("remove", err)
		}
	}
}

func (d *disk) stats(s *Stats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.DiskBytes, s.DiskExtents = d.size, d.extents
	s.DiskWrites, s.DiskErrors = d.written, d.errors
	s.DiskDropped = d.queue.droppedCount()
}
