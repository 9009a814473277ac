package filestore

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// Limits of packs.
const (
	packSize    = 64 << 20 // bytes of a pack
	maxPackBody = 4 << 20  // bytes of an object in one; larger ones gain nothing
	maxHomes    = 4        // folders whose packs a Store writes at a time
	packAfter   = 4        // puts into a folder before it gets a pack: a seal or two alone need none
)

// errHomes keeps a folder without a pack.
var errHomes = errors.New("too many folders have packs that are in use")

// packed says whether new objects of a key may go into packs.
func (s *Store) packed(key string) bool {
	for _, prefix := range s.prefixes {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// putPacked puts an object into the folder's pack, where there is one that
// takes it; else done is false and nothing has happened.
func (s *Store) putPacked(ctx context.Context, f *folder, name string, body objstore.Buffers) (done bool, err error) {
	rec := pack.Record{Name: path.Base(name), Size: body.Size()}
	if rec.Size > min(maxPackBody, s.packSize/2) {
		return false, nil
	}
	p, leaving := s.reserve(ctx, f, &rec)
	if leaving != nil {
		s.retire(ctx, f, leaving)
	}
	if p == nil {
		return false, nil
	}
	rec.CRC = pack.Checksum(body)
	bufs := rec.AppendHeader(make([][]byte, 0, len(body)+2), p.id)
	err = p.file.WriteBlocks(append(bufs, body...), rec.Offset)
	if err == nil {
		err = s.fs.Link(path.Join(f.dir, p.id.RefName()), name)
	}
	switch {
	case err == nil:
		s.know(p, rec)
	case errors.Is(err, fs.ErrExist): // another process was faster
		_ = pack.MakeVoid(p.file, rec) // where it fails, the durable name does
		err = s.exists(name)
	}
	if f.release(p, err != nil && !errors.Is(err, objstore.ErrExists)) {
		s.retire(ctx, f, p)
	}
	return true, err
}

// know spares this Store reading the record's header.
func (s *Store) know(p *openPack, rec pack.Record) {
	if h, err := s.packs.acquire(p.path); err == nil {
		h.records.add(rec)
		s.packs.release(h)
	}
}

// reserve gives a record its place, in a new pack where it is time for one. A
// pack that has no room for it takes no more; the caller retires it if it is returned.
func (s *Store) reserve(ctx context.Context, f *folder, rec *pack.Record) (p, leaving *openPack) {
	p, leaving, open := f.place(rec, s.packAfter)
	if !open {
		return p, leaving
	}
	if err := s.openPack(ctx, f); err != nil {
		return nil, nil // the object goes its own way, and tells what ails the disk
	}
	p, leaving, _ = f.place(rec, s.packAfter)
	return p, leaving
}

// place returns the pack in which the record got its place, or a pack that has
// no room for it and that the caller is to retire, or that he is to open one,
// as after so many puts without.
func (f *folder) place(rec *pack.Record, after int) (p, leaving *openPack, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p = f.pack; p == nil {
		f.puts++
		if f.changing || f.puts <= after {
			return nil, nil, false
		}
		f.changing = true
		return nil, nil, true
	}
	if _, ok := p.names[rec.Name]; ok { // was deleted: a name is in a pack once
		return nil, nil, false
	}
	rec.Offset = p.next
	if rec.End() > p.size {
		if f.leave(p, false) {
			leaving = p
		}
		return nil, leaving, false
	}
	p.next = rec.End()
	p.writing++
	p.names[rec.Name] = struct{}{}
	return p, nil, false
}

// leave makes a pack take no more records, under the lock, and says whether
// the caller is to retire it: the last one who is at it.
func (f *folder) leave(p *openPack, failed bool) bool {
	p.failed = p.failed || failed
	if !p.leaving {
		p.leaving, f.pack, f.changing = true, nil, true
	}
	return p.writing == 0
}

// release ends the use of a place, and says whether the caller is to retire the pack.
func (f *folder) release(p *openPack, failed bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.writing--
	if failed || p.leaving {
		return f.leave(p, failed)
	}
	return false
}

// openPack makes the folder's next pack, and this Store the folder's home
// where nobody else is.
func (s *Store) openPack(ctx context.Context, f *folder) error {
	p, err := s.newPack(ctx, f)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pack, f.puts = p, 0
	f.changing = errors.Is(err, errors.ErrUnsupported) // no packs on this file system: don't ask again
	return err
}

func (s *Store) newPack(ctx context.Context, f *folder) (*openPack, error) {
	if !f.isHome() {
		if err := s.leaveHomes(ctx, maxHomes-1); err != nil {
			return nil, err
		}
		home, err := s.settleFolder(ctx, f)
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		f.home = home
		f.mu.Unlock()
	}
	p := &openPack{id: pack.NewID(), size: s.packSize, next: pack.Block, names: make(map[string]struct{})}
	p.path = path.Join(f.dir, p.id.FileName())
	if err := s.makePack(f.dir, p); err != nil {
		_ = s.fs.Remove(p.path) // it has no records
		_ = s.fs.Remove(path.Join(f.dir, p.id.RefName()))
		return nil, err
	}
	return p, nil
}

// makePack makes a pack's two files, durably.
func (s *Store) makePack(dir string, p *openPack) error {
	err := s.addFile(path.Join(dir, p.id.RefName()), func(tmp string) error {
		file, err := s.fs.Create(tmp)
		if err != nil {
			return err
		}
		_, err = file.Write(p.id.Ref())
		return errors.Join(err, file.Sync(), file.Close())
	})
	if err != nil {
		return err
	}
	if err = s.addFile(p.path, func(tmp string) (err error) {
		if p.file, err = s.fs.Preallocate(tmp, p.size); err != nil {
			return err
		}
		return errors.Join(p.file.WriteBlocks([][]byte{pack.Header(p.id, pack.Open)}, 0), p.file.Sync())
	}); err == nil {
		err = s.dirs.sync(dir)
	}
	if err != nil && p.file != nil {
		_ = p.file.Close()
	}
	return err
}

// addFile links a file that make makes as a temporary one.
func (s *Store) addFile(name string, make func(tmp string) error) error {
	tmp := s.nextTmp()
	err := s.makeTmpFolder(tmp)
	if err == nil {
		err = make(tmp)
	}
	if err == nil {
		err = s.fs.Link(tmp, name)
	}
	_ = s.fs.Remove(tmp)
	return err
}

// retire closes a pack that nobody writes to. Only then the folder may get
// another: the names tell how each put ended. Where it fails, the pack stays as
// a killed home leaves it, and who is the home next, this Store or another, settles it.
func (s *Store) retire(ctx context.Context, f *folder, p *openPack) {
	if err := s.finish(ctx, f.dir, p); err != nil {
		f.freeHome()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changing = false
	if f.puts = s.packAfter; p.failed {
		f.puts = 0
	}
}

// finish closes a pack, and removes it if it has no objects.
func (s *Store) finish(ctx context.Context, dir string, p *openPack) error {
	if err := errors.Join(s.closePack(dir, p.id, p.file, p.next), p.file.Close()); err != nil {
		return err
	}
	_, _ = s.collect(ctx, dir, p.id) // else a later Delete does, or who settles the folder
	return nil
}

// leaveHomes makes this Store the home of at most n folders, if it can: those
// that were used last.
func (s *Store) leaveHomes(ctx context.Context, n int) error {
	homes := s.folders.homes()
	left := len(homes)
	for _, f := range homes {
		if left > n && s.leaveHome(ctx, f) {
			left--
		}
	}
	if left > n {
		return errHomes
	}
	return nil
}

// leaveHome closes a folder's pack and frees the folder for another home,
// unless a put is under way there.
func (s *Store) leaveHome(ctx context.Context, f *folder) bool {
	f.mu.Lock()
	p := f.pack
	idle := f.home != nil && !f.changing && (p == nil || p.writing == 0)
	if idle {
		f.pack, f.changing = nil, true
	}
	f.mu.Unlock()
	if !idle {
		return false
	}
	if p != nil {
		_ = s.finish(ctx, f.dir, p) // else who is the home next settles it
	}
	f.freeHome()
	return true
}

// freeHome gives the folder's lock back. No pack of this Store takes records.
func (f *folder) freeHome() {
	f.mu.Lock()
	home := f.home
	f.home, f.changing, f.puts = nil, false, 0
	f.mu.Unlock()
	if home != nil {
		_ = home.Close()
	}
}
