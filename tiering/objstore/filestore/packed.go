package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"

	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

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

// all returns the names in a pack that is closed.
func (r *records) all(h *handle, id pack.ID) ([]string, error) {
	size, err := h.file.Size() // less than when it was opened: it was cut on closing
	if err != nil {
		return nil, err
	}
	_, next, _ := r.get("")
	for rec, err := range pack.Scan(h.file, id, next, size) {
		if err != nil {
			return nil, err
		}
		r.add(rec)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.names), nil
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
	if closed, err := pack.Closed(h.file, id); err != nil || closed {
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
	if closed, err = pack.Closed(h.file, id); err != nil || !closed {
		return closed, err
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
// so it looks for the last first.
func (s *Store) inUse(ctx context.Context, h *handle, dir string, id pack.ID) (bool, error) {
	names, err := h.records.all(h, id)
	if err != nil {
		return false, err
	}
	for _, name := range slices.Backward(names) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		ref, err := s.files.acquire(path.Join(dir, name))
		if absent(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		here := ref.packed && ref.id == id
		s.files.release(ref)
		if here {
			return true, nil
		}
	}
	return false, nil
}
