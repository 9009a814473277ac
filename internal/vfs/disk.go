package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// maxDirHandles bounds the directories that a DiskFS keeps open for SyncDir.
const maxDirHandles = 64

// DiskFS is the part of the machine's file system below a folder.
type DiskFS struct {
	// Direct makes the writes of new files, and large reads of whole blocks
	// into memory that is aligned as blocks are, go past the page cache
	// (O_DIRECT), where the system can. It spares the cache's pages, whose
	// first use is dear on a virtual machine; what is read soon should lie in
	// memory of one's own then. It is set before the first use.
	Direct bool

	root string

	mu   sync.Mutex
	dirs map[string]*os.File // by path; kept open because each fsync needs one
}

// Disk returns the file system below root, which it creates durably, with its
// missing parents, where it is missing.
func Disk(root string) (*DiskFS, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	if err := mkdirAll(abs); err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	return &DiskFS{root: abs, dirs: make(map[string]*os.File)}, nil
}

// Close closes the directories that SyncDir keeps open.
func (d *DiskFS) Close() error {
	d.mu.Lock()
	dirs := d.dirs
	d.dirs = make(map[string]*os.File)
	d.mu.Unlock()
	var err error
	for _, f := range dirs {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Create implements FS.
func (d *DiskFS) Create(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements FS.
func (d *DiskFS) Open(name string) (File, error) {
	return d.open(name, os.O_RDONLY)
}

func (d *DiskFS) open(name string, flags int) (File, error) {
	p, err := d.path("open", name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p, flags, 0o644)
	if err != nil {
		return nil, err
	}
	df := &diskFile{f: f, past: d.Direct}
	if flags != os.O_RDONLY {
		df.direct = d.Direct && startDirect(f)
	} else if _, err := df.Size(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return df, nil
}

// Link implements FS.
func (d *DiskFS) Link(oldName, newName string) error {
	o, err := d.path("link", oldName)
	if err != nil {
		return err
	}
	n, err := d.path("link", newName)
	if err != nil {
		return err
	}
	return os.Link(o, n)
}

// Remove implements FS.
func (d *DiskFS) Remove(name string) error {
	p, err := d.path("remove", name)
	if err != nil {
		return err
	}
	return os.Remove(p)
}

// Mkdir implements FS.
func (d *DiskFS) Mkdir(name string) error {
	p, err := d.path("mkdir", name)
	if err != nil {
		return err
	}
	return os.Mkdir(p, 0o755)
}

// ReadDir implements FS.
func (d *DiskFS) ReadDir(name string) ([]string, error) {
	p, err := d.path("readdir", name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1) // unlike os.ReadDir it does not sort
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
		if e.IsDir() {
			names[i] += "/"
		}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir implements FS.
func (d *DiskFS) SyncDir(name string) error {
	for {
		f, err := d.dir(name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotSynced, err)
		}
		err = f.Sync()
		if !errors.Is(err, fs.ErrClosed) { // closed meanwhile to make room for another
			return err
		}
	}
}

// dir returns an open handle of a directory.
func (d *DiskFS) dir(name string) (*os.File, error) {
	p, err := d.path("syncdir", name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	f := d.dirs[p]
	d.mu.Unlock()
	if f != nil {
		if links, err := linkCount(f); err == nil && links > 0 {
			return f, nil
		} // else somebody removed the directory
	}
	if f, err = os.Open(p); err != nil {
		return nil, err
	}
	d.mu.Lock()
	var evicted []*os.File
	if old := d.dirs[p]; old != nil {
		evicted = append(evicted, old)
		delete(d.dirs, p)
	}
	for k, old := range d.dirs {
		if len(d.dirs) < maxDirHandles {
			break
		}
		evicted = append(evicted, old)
		delete(d.dirs, k)
	}
	d.dirs[p] = f
	d.mu.Unlock()
	for _, old := range evicted {
		_ = old.Close() // read-only: nothing to lose
	}
	return f, nil
}

// Size implements FS.
func (d *DiskFS) Size(name string) (int64, error) {
	p, err := d.path("stat", name)
	if err != nil {
		return 0, err
	}
	fi, err := os.Stat(p)
	if err != nil {
		return 0, err
	}
	if fi.IsDir() {
		return 0, &fs.PathError{Op: "stat", Path: p, Err: syscall.EISDIR}
	}
	return fi.Size(), nil
}

func (d *DiskFS) path(op, name string) (string, error) {
	if name == "" {
		return d.root, nil
	}
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return filepath.Join(d.root, filepath.FromSlash(name)), nil
}

// mkdirAll creates a directory and its missing parents from the top down, and
// syncs the parent of each new one.
func mkdirAll(p string) error {
	fi, err := os.Stat(p)
	if err == nil && !fi.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: p, Err: syscall.ENOTDIR}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(p)
	if parent == p {
		return err
	}
	if err := mkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Also where another process was faster: it may not have synced yet.
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// diskFile is an open file of a DiskFS.
type diskFile struct {
	f      *os.File
	direct bool // written past the page cache unless a read has ended that, so far in whole blocks; owned by the writer

	past   bool // large reads go past the page cache, if the system can
	reader lazyFile
}

func (f *diskFile) Write(p []byte) (int, error) {
	n, err := f.Writev([][]byte{p})
	return int(n), err
}

func (f *diskFile) Writev(bufs [][]byte) (int64, error) {
	if f.direct {
		return f.writeDirect(bufs)
	}
	return writev(f.f, bufs)
}

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	if f.past && wholeBlocks(p, off) {
		if r := f.reader.get(f.f); r != nil {
			return r.ReadAt(p, off)
		}
	}
	n, err := f.f.ReadAt(p, off)
	if errors.Is(err, syscall.EINVAL) && endDirect(f.f) == nil { // reads past the cache must be aligned: make them plain
		return f.f.ReadAt(p, off)
	}
	return n, err
}

func (f *diskFile) Sync() error { return f.f.Sync() }

func (f *diskFile) Close() error { return errors.Join(f.reader.close(), f.f.Close()) }

// lazyFile is a second handle of an open file, for reads past the page cache.
type lazyFile struct {
	once sync.Once
	f    *os.File // nil: the system can't
}

func (l *lazyFile) get(of *os.File) *os.File {
	l.once.Do(func() { l.f = openDirect(of) })
	return l.f
}

func (l *lazyFile) close() error {
	l.once.Do(func() {})
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

func (f *diskFile) Size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.IsDir() {
		return 0, &fs.PathError{Op: "open", Path: path.Base(f.f.Name()), Err: syscall.EISDIR}
	}
	return fi.Size(), nil
}

func (f *diskFile) Linked() (bool, error) {
	n, err := linkCount(f.f)
	return n > 0, err
}
