// Package filestore is the object store on local files, shared by any number
// of processes of one machine. An object has a file of its own or, below the
// prefixes given to Open, a record in a pack, which costs about half.
//
// A put never shows part of an object, and one that returned nil outlives a
// loss of power. That of a file:
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
// Of a packed object the record is durable before its name, and the name is
// not synced:
//
//	write  ~pack-<id>      the record, durably and in place
//	link   ~ref-<id> <key> create-only, as above; acknowledged
//
// A loss of power may take the name. So before a Store relies on a name being
// absent it settles the folder, once: whole records of packs that are not
// closed, and not void, get their names back, and the packs are closed. One
// Store at a time, the folder's home, writes packs there, and holds a lock for
// as long as it lives; only who gets that lock settles. All others put files.
// docs/notes/0005-packs.md has the argument, docs/format/pack.md the bytes.
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
	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// tmpDir holds the files that are being written. It is no segment of any key.
const tmpDir = "~tmp"

// Store is an object store on files.
type Store struct {
	fs   vfs.FS
	root string
	tmp  string       // prefix of the folders of this Store's temporary files, unique among all processes
	seq  atomic.Int64 // of temporary files

	prefixes  []string // of the keys whose objects go into packs
	packSize  int64    // bytes of a pack
	packAfter int      // puts into a folder before it gets a pack

	dirs    dirs
	files   handles // of objects that have a file, and references
	packs   handles
	folders folders
}

var _ objstore.Store = (*Store)(nil)

// Open opens the store whose objects lie below root, a folder of files which
// is created if it is missing, and must lie on one disk. It removes the
// temporary files of processes that are gone. Objects whose keys begin with one
// of packed are put into packs; those that are in some are found without it.
func Open(files vfs.FS, root string, packed ...string) (*Store, error) {
	return open(files, root, newProcess(), packed...)
}

func open(files vfs.FS, root string, p process, packed ...string) (*Store, error) {
	s := &Store{fs: files, root: path.Clean(root), prefixes: packed, packSize: packSize, packAfter: packAfter}
	s.tmp = path.Join(s.root, tmpDir, p.id+"-"+nonce()+"-")
	s.dirs.init(files)
	s.files.init(files, maxOpenFiles)
	s.packs.init(files, maxOpenPacks)
	s.folders.known = make(map[string]*folder)
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

// Close closes the packs, and the files that the Store keeps open for reading.
// Calls that are under way end first; none may follow. A pack that it fails to
// close is settled by whoever comes to its folder next.
func (s *Store) Close() error {
	if s.leaveHomes(context.Background(), 0) != nil {
		for _, f := range s.folders.homes() {
			f.freeHome()
		}
	}
	s.files.close()
	s.packs.close()
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
	if err := s.dirs.trusted(dir); err != nil {
		return err
	}
	f := s.folders.use(dir)
	defer s.folders.done(f)
	if err := s.settle(ctx, dir); err != nil {
		return err
	}
	if bufs, ok := body.(objstore.Buffers); ok && s.packed(key) {
		if done, err := s.putPacked(ctx, f, name, bufs); done {
			return err
		}
	}
	if _, err := s.fs.Size(name); err == nil || errors.Is(err, syscall.EISDIR) {
		return s.exists(name) // a repeated put: spare the disk
	}
	return s.putFile(ctx, name, body)
}

// putFile puts an object as a file of its own.
func (s *Store) putFile(ctx context.Context, name string, body objstore.Body) error {
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
	return s.dirs.sync(path.Dir(name))
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

// Delete implements objstore.Store. Outside of folders with packs no fsync
// follows: an object that a loss of power brings back is one that nothing refers
// to any more, as it was before, and its next sweep finds it again. A key is put
// again only after the Delete that removed its object has returned. A key that
// fails does not hold up the others.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if err := objstore.ValidateDelete(keys); err != nil {
		return err
	}
	from := map[string]map[pack.ID]bool{} // by folder, the packs
	var errs []error
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		if err := s.delete(ctx, s.path(key), from); err != nil {
			errs = append(errs, fmt.Errorf("delete object %s: %w", key, err))
		}
	}
	for dir, packs := range from { // also for those that went before a failure: a repeat finds them absent
		if err := s.afterDelete(ctx, dir, packs); err != nil {
			errs = append(errs, fmt.Errorf("delete objects in %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
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
