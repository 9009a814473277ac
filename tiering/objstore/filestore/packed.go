package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// packReads is how many packs' headers are read at a time.
const packReads = 16

// errNoPack is returned for an object's name that refers to a pack that is not there.
var errNoPack = errors.New("the object's pack is not there")

// records is what was read of the headers in a pack; a name is in a pack once.
type records struct {
	mu     sync.Mutex
	byName map[string]pack.Record
	names  []string        // as they were read or written, so that the last ones are at the end
	next   int64           // all that lies before is known
	ends   map[int64]int64 // of those known that lie behind, by offset
}

func (r *records) get(name string) (rec pack.Record, next int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok = r.byName[name]
	return rec, r.next, ok
}

func (r *records) add(rec pack.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName == nil {
		r.byName, r.ends, r.next = make(map[string]pack.Record), make(map[int64]int64), pack.Block
	}
	if _, ok := r.byName[rec.Name]; ok {
		return
	}
	r.byName[rec.Name], r.names = rec, append(r.names, rec.Name)
	r.ends[rec.Offset] = rec.End()
	for end, ok := r.ends[r.next]; ok; end, ok = r.ends[r.next] {
		delete(r.ends, r.next)
		r.next = end
	}
}

// known returns the names in a pack that were read or written so far.
func (r *records) known() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.names)
}

// more reads on in a pack that is closed.
func (r *records) more(h *handle, id pack.ID) iter.Seq2[pack.Record, error] {
	return func(yield func(pack.Record, error) bool) {
		size, err := h.file.Size() // less than when it was opened: it was cut on closing
		if err != nil {
			yield(pack.Record{}, err)
			return
		}
		_, next, _ := r.get("")
		for rec, err := range pack.Scan(h.file, id, next, size) {
			if err == nil {
				r.add(rec)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

// find returns the record of a name in a pack. Who has the name from the
// folder finds it: the record is durable before the name is made.
func (r *records) find(h *handle, id pack.ID, name string) (pack.Record, error) {
	rec, next, ok := r.get(name)
	if ok {
		return rec, nil
	}
	for rec, err := range pack.Scan(h.file, id, next, h.size) {
		if err != nil {
			return rec, err
		}
		r.add(rec)
		if rec.Name == name {
			return rec, nil
		}
	}
	return rec, fmt.Errorf("%w: no record of %s in %s", pack.ErrInvalid, name, h.name)
}

// record returns the record of a packed object, and its pack, open for
// reading; the caller releases it.
func (s *Store) record(name string, id pack.ID) (*handle, pack.Record, error) {
	dir, base := path.Split(name)
	h, err := s.packs.acquire(path.Join(dir, id.FileName()))
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoPack
	}
	if err != nil {
		return nil, pack.Record{}, err
	}
	if _, _, ok := h.records.get(base); !ok {
		s.readPacks(path.Clean(dir))
	}
	rec, err := h.records.find(h, id, base)
	if err != nil {
		s.packs.release(h)
		return nil, rec, err
	}
	return h, rec, nil
}

// size returns an object's length in bytes, and of a packed one the pack.
func (s *Store) size(name string) (size int64, id pack.ID, packed bool, err error) {
	if size, err = s.fs.Size(name); err != nil || size != pack.RefSize {
		return size, id, false, err
	}
	ref, err := s.files.acquire(name)
	if err != nil {
		return 0, id, false, err
	}
	defer s.files.release(ref)
	if !ref.packed {
		return size, id, false, nil
	}
	h, rec, err := s.record(name, ref.id)
	if err != nil {
		return 0, id, true, err
	}
	s.packs.release(h)
	return rec.Size, ref.id, true, nil
}

// delete removes an object's name, and notes its folder and the pack that it was in.
// A record of an open pack is made void first: who settles the folder would
// take it for one whose name was lost. Void, it still can be read.
func (s *Store) delete(ctx context.Context, name string, from map[string]map[pack.ID]bool) error {
	dir := path.Dir(name)
	if err := s.settle(ctx, dir); err != nil {
		return err
	}
	_, id, packed, err := s.size(name)
	if packed && err == nil {
		err = s.void(name, id)
	}
	if err == nil || errors.Is(err, errNoPack) {
		err = s.fs.Remove(name)
	}
	s.files.drop(name)
	if absent(err) {
		return nil
	}
	if from[dir] == nil {
		from[dir] = map[pack.ID]bool{}
	}
	if packed {
		from[dir][id] = true
	}
	return err
}

// afterDelete makes it durable that names in a folder with packs are gone: one
// that came back would be taken for a later record's. It removes the packs
// that are empty now.
func (s *Store) afterDelete(ctx context.Context, dir string, packs map[pack.ID]bool) error {
	if _, err := s.fs.Size(path.Join(dir, homeLock)); absent(err) {
		return nil
	}
	if err := s.dirs.sync(dir); err != nil {
		return err
	}
	for id := range packs {
		if err := s.collectOrSettle(ctx, dir, id); err != nil {
			return err
		}
	}
	return nil
}

// void makes a packed object's record void, unless the pack is closed.
func (s *Store) void(name string, id pack.ID) error {
	h, rec, err := s.record(name, id)
	if err != nil {
		return err
	}
	defer s.packs.release(h)
	if state, err := pack.ReadState(h.file, id); err != nil || state == pack.Closed {
		return err
	}
	f, err := s.fs.Edit(h.name)
	if err != nil {
		return err
	}
	return errors.Join(pack.MakeVoid(f, rec), f.Close())
}

// collectOrSettle collects a pack; where it is open and its home is gone by now,
// it is closed first.
func (s *Store) collectOrSettle(ctx context.Context, dir string, id pack.ID) error {
	closed, err := s.collect(ctx, dir, id)
	if err != nil || closed {
		return err
	}
	f := s.folders.use(dir)
	defer s.folders.done(f)
	if f.isHome() {
		return nil
	}
	return s.settleLeft(ctx, f)
}

// collect removes a pack that is closed, and so gets no more names, once no
// object of it is left. It says whether the pack is closed.
func (s *Store) collect(ctx context.Context, dir string, id pack.ID) (closed bool, err error) {
	name := path.Join(dir, id.FileName())
	h, err := s.packs.acquire(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // somebody did
	}
	if err != nil {
		return false, err
	}
	defer s.packs.release(h)
	if state, err := pack.ReadState(h.file, id); err != nil || state != pack.Closed {
		return false, err
	}
	if used, err := s.inUse(ctx, h, dir, id); err != nil || used {
		return true, err
	}
	if err := s.dirs.sync(dir); err != nil { // no name comes back without its pack
		return true, err
	}
	s.packs.drop(name)
	for _, file := range []string{name, path.Join(dir, id.RefName())} {
		if err := s.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true, err
		}
	}
	return true, nil
}

// inUse says whether a pack has objects. They are deleted in order as a rule,
// so of those known it looks for the last first. Of the others it reads only what it must.
func (s *Store) inUse(ctx context.Context, h *handle, dir string, id pack.ID) (bool, error) {
	for _, name := range slices.Backward(h.records.known()) {
		if used, err := s.refers(ctx, path.Join(dir, name), id); err != nil || used {
			return used, err
		}
	}
	for rec, err := range h.records.more(h, id) {
		if err != nil {
			return false, err
		}
		if used, err := s.refers(ctx, path.Join(dir, rec.Name), id); err != nil || used {
			return used, err
		}
	}
	return false, nil
}

// refers says whether a name is that of an object in a pack.
func (s *Store) refers(ctx context.Context, name string, id pack.ID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	ref, err := s.files.acquire(name)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer s.files.release(ref)
	return ref.packed && ref.id == id, nil
}

// readPacks reads the headers in a folder's closed packs, once, several at a time: who comes to
// another's folder asks for all its objects as a rule, and one after the other each would wait for
// the disk. What can't be read is found out by who needs it.
func (s *Store) readPacks(dir string) {
	f := s.folders.use(dir)
	defer s.folders.done(f)
	done, first := f.startReading()
	if !first {
		<-done
		return
	}
	defer close(done)
	names, _ := s.fs.ReadDir(dir)
	var g errgroup.Group
	g.SetLimit(packReads)
	for _, name := range names {
		if id, ref, ok := pack.ParseName(name); ok && !ref {
			g.Go(func() error { return s.readPack(path.Join(dir, name), id) })
		}
	}
	_ = g.Wait()
}

// readPack reads the headers in a pack, unless it is open.
func (s *Store) readPack(name string, id pack.ID) error {
	h, err := s.packs.acquire(name)
	if err != nil {
		return err
	}
	defer s.packs.release(h)
	if state, err := pack.ReadState(h.file, id); err != nil || state != pack.Closed {
		return err
	}
	for _, err := range h.records.more(h, id) {
		if err != nil {
			return err
		}
	}
	return nil
}
