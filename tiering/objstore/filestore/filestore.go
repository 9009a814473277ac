// Package filestore is the object store on local files, one for each object,
// shared by any number of processes of one machine.
//
// A put never shows part of an object, and one that returned nil outlives a
// loss of power:
//
//	create ~tmp/<writer>/<n>   write, fsync   the content is durable
//	link   <key>                              create-only: the kernel picks the one winner
//	unlink ~tmp/<writer>/<n>
//	fsync  the key's folder                   the name is durable; only now is it acknowledged
//
// Folders are made, and the entry of each in its parent synced, before the
// first put into them. The fsync of a folder is shared by the puts that wait
// for it. Who finds the key taken waits for such an fsync as well, so that
// ErrExists too speaks of something durable. After a failed fsync the outcome
// is unknown, and a folder whose fsync failed takes no more puts of this Store:
// the kernel reports a lost page once, and the next fsync would lie.
//
// An object is visible from its link on, a moment before it is durable. Who
// acts on what another process wrote makes it durable first by a put of his
// own into the same folder, as whoever takes over a WAL does with the seal.
//
// A name can't be an object and a folder at once: with an object "a", puts of
// "a/b" fail, and the other way round. '~' is no byte of keys, so no key is
// ever below ~tmp. Folders are never removed: an emptied one that another
// process has just found is about to be written to, and its entry in its
// parent may be one that it takes for synced.
package filestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync/atomic"
	"syscall"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
)

// tmpDir holds the files that are being written. It is no segment of any key.
const tmpDir = "~tmp"

// Store is an object store on files.
type Store struct {
	fs   vfs.FS
	root string
	tmp  string       // prefix of the folders of this Store's temporary files, unique among all processes
	seq  atomic.Int64 // of temporary files

	dirs  dirs
	files handles
}

var _ objstore.Store = (*Store)(nil)

// Open opens the store whose objects lie below root, a folder of files which
// is created if it is missing, and must lie on one disk. It removes the
// temporary files of processes that are gone.
func Open(files vfs.FS, root string) (*Store, error) {
	return open(files, root, newProcess())
}

func open(files vfs.FS, root string, p process) (*Store, error) {
	s := &Store{fs: files, root: path.Clean(root)}
	s.tmp = path.Join(s.root, tmpDir, p.id+"-"+nonce()+"-")
	s.dirs.init(files)
	s.files.init(files)
	if err := s.dirs.ensure(path.Join(s.root, tmpDir)); err != nil {
		return nil, fmt.Errorf("open object folder: %w", err)
	}
	if spreader, ok := files.(interface{ Spread(path string) error }); ok {
		_ = spreader.Spread(path.Join(s.root, tmpDir)) // a hint
	}
	if err := s.sweep(p.alive); err != nil {
		return nil, fmt.Errorf("sweep temporary files: %w", err)
	}
	return s, nil
}

// Close closes the files that the Store keeps open for reading. Reads that
// are under way end first; no call may follow.
func (s *Store) Close() error {
	s.files.close()
	return nil
}

func (s *Store) path(key string) string { return path.Join(s.root, key) }

// Put implements objstore.Store. ctx is looked at before each write, not
// during one: a disk call can't be interrupted.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := objstore.ValidateKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.put(ctx, key, body); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // somebody removed a folder
			s.dirs.forget()
		}
		return fmt.Errorf("put object %s: %w", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, body objstore.Body) error {
	name := s.path(key)
	dir := path.Dir(name)
	if err := s.dirs.ensure(path.Join(s.root, tmpDir)); err != nil {
		return err
	}
	if err := s.dirs.ensure(dir); err != nil {
		return folderErr(err)
	}
	if _, err := s.fs.Size(name); err == nil || errors.Is(err, syscall.EISDIR) {
		return s.exists(name) // a repeated put: spare the disk
	}
	tmp, err := s.write(ctx, body)
	if err != nil {
		return err
	}
	err = s.fs.Link(tmp, name)
	// Unlinked before the fsync, so that one transaction of the disk's journal
	// takes both. Where it fails the next Open sweeps.
	_ = s.fs.Remove(tmp)
	if errors.Is(err, fs.ErrExist) {
		return s.exists(name)
	}
	if err != nil {
		return err
	}
	return s.dirs.sync(dir)
}

// exists returns ErrExists once the object that took the name is durable.
func (s *Store) exists(name string) error {
	if _, err := s.fs.Size(name); errors.Is(err, syscall.EISDIR) {
		return fmt.Errorf("%w: it names a folder", objstore.ErrInvalidKey)
	}
	if err := s.dirs.sync(path.Dir(name)); err != nil {
		return err
	}
	return objstore.ErrExists
}

// write writes a body to a new temporary file, syncs it and returns its name.
// On an error the file is gone.
func (s *Store) write(ctx context.Context, body objstore.Body) (string, error) {
	tmp, f, err := s.createTmp()
	if err != nil {
		return "", err
	}
	if err = writeBody(ctx, f, body); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = s.fs.Remove(tmp)
		return "", err
	}
	return tmp, nil
}

// bodyBuffer is how many bytes of small writes are gathered for the disk.
const bodyBuffer = 64 << 10

func writeBody(ctx context.Context, f vfs.File, body objstore.Body) error {
	if bufs, ok := body.(objstore.Buffers); ok {
		_, err := f.Writev(bufs)
		return err
	}
	w := bufio.NewWriterSize(ctxWriter{ctx, f}, bodyBuffer)
	if _, err := body.WriteTo(w); err != nil {
		return err
	}
	return w.Flush()
}

// ctxWriter stops writing when its context ends.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w ctxWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// Delete implements objstore.Store. No fsync follows: an object that a loss
// of power brings back is one that nothing refers to any more, as it was
// before, and its next sweep finds it again.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if err := objstore.ValidateDelete(keys); err != nil {
		return err
	}
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := s.path(key)
		s.files.drop(name)
		if _, err := s.fs.Size(name); absent(err) {
			continue
		}
		if err := s.fs.Remove(name); err != nil && !absent(err) {
			return fmt.Errorf("delete object %s: %w", key, err)
		}
	}
	return nil
}

// absent says whether an error of a path means that there is no object: no
// such name, a folder, or a name below an object.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR)
}

// folderErr turns a failure to make a folder where an object is into ErrInvalidKey.
func folderErr(err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: an object has the name of its folder: %w", objstore.ErrInvalidKey, err)
	}
	return err
}
