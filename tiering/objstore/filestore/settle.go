package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// The locks of a folder that has, or had, packs; never removed.
const (
	homeLock   = "~home"   // held by the Store that writes packs there
	settleLock = "~settle" // held by whoever asks for ~home, so that nobody takes him for a home
)

// settleRetry is how often who waits for another Store that settles a folder looks again.
const settleRetry = 5 * time.Millisecond

// settle makes the names in a folder the truth about its objects, before the
// Store relies on one being absent. It does so once, since only a loss of power takes names.
func (s *Store) settle(ctx context.Context, dir string) error {
	f := s.folders.use(dir)
	defer s.folders.done(f)
	f.mu.Lock()
	done := f.settled
	f.mu.Unlock()
	if done {
		return nil
	}
	return s.settleLeft(ctx, f)
}

// settleLeft settles what a home that is gone left in a folder.
func (s *Store) settleLeft(ctx context.Context, f *folder) error {
	if _, err := s.fs.Size(path.Join(f.dir, homeLock)); absent(err) {
		return nil // no packs, or not yet
	} else if err != nil {
		return err
	}
	home, err := s.settleFolder(ctx, f)
	if errors.Is(err, vfs.ErrLocked) { // its home is alive, so no power was lost since
		f.setSettled()
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle %s: %w", f.dir, err)
	}
	return home.Close()
}

func (f *folder) setSettled() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled = true
}

// settleFolder becomes a folder's home, of which there is one at a time, and
// settles the packs that homes before it left. ErrLocked: another one lives.
func (s *Store) settleFolder(ctx context.Context, f *folder) (home io.Closer, err error) {
	turn, err := s.waitLock(ctx, path.Join(f.dir, settleLock))
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if home, err = s.fs.Lock(path.Join(f.dir, homeLock)); err != nil {
		return nil, err
	}
	if err := s.settlePacks(ctx, f.dir); err != nil {
		return nil, errors.Join(err, home.Close())
	}
	f.setSettled()
	return home, nil
}

// waitLock takes a lock that others hold for a short time.
func (s *Store) waitLock(ctx context.Context, name string) (io.Closer, error) {
	for {
		lock, err := s.fs.Lock(name)
		if !errors.Is(err, vfs.ErrLocked) {
			return lock, err
		}
		select {
		case <-time.After(settleRetry):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// settlePacks settles the packs in a folder that nobody writes to.
func (s *Store) settlePacks(ctx context.Context, dir string) error {
	names, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	packs, present := map[pack.ID]bool{}, map[string]bool{}
	for _, name := range names {
		present[name] = true
		if id, _, ok := pack.ParseName(name); ok {
			packs[id] = true
		}
	}
	for id := range packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !present[id.FileName()] { // removed, or never used
			if err := s.fs.Remove(path.Join(dir, id.RefName())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err := s.settlePack(dir, id, present); err != nil {
			return err
		}
		if _, err := s.collect(ctx, dir, id); err != nil {
			return err
		}
	}
	return nil
}

// settlePack gives the whole records of a pack that was not closed their names
// back, which a loss of power may have taken, and closes it. A name that is
// there stays whose it is: it is durable, or its record is. The names present
// were read before: one that a Delete took is missing only where the record
// is void by now.
func (s *Store) settlePack(dir string, id pack.ID, present map[string]bool) error {
	h, err := s.packs.acquire(path.Join(dir, id.FileName()))
	if err != nil {
		return err
	}
	defer s.packs.release(h)
	state, err := pack.ReadState(h.file, id)
	if err != nil || state == pack.Closed {
		return err
	}
	f, err := s.fs.Edit(h.name)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil { // its home may have been killed while it wrote
		return errors.Join(err, f.Close())
	}
	lost := state == pack.Open && present[id.RefName()]
	end, err := s.restoreNames(dir, h, id, present, lost)
	if err == nil {
		err = s.closePack(dir, id, f, end)
	}
	return errors.Join(err, f.Close())
}

// restoreNames links the names of a pack's whole records, where they may be lost, and returns where
// the last record ends.
func (s *Store) restoreNames(dir string, h *handle, id pack.ID, present map[string]bool, lost bool) (end int64, err error) {
	end = pack.Block
	for rec, err := range pack.Scan(h.file, id, 0, h.size) {
		if err != nil {
			return 0, err
		}
		h.records.add(rec)
		end = rec.End()
		if rec.Void || present[rec.Name] || !lost {
			continue
		}
		if err := pack.Verify(h.file, rec); errors.Is(err, pack.ErrInvalid) {
			continue
		} else if err != nil {
			return 0, err
		}
		err := s.fs.Link(path.Join(dir, id.RefName()), path.Join(dir, rec.Name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return 0, err
		}
	}
	return end, nil
}

// closePack closes a pack of which end bytes are used: from now on the names
// in the folder, which it makes durable, are the truth about its records. It
// gives the rest of its space back.
func (s *Store) closePack(dir string, id pack.ID, f vfs.BlockFile, end int64) error {
	if err := s.dirs.sync(dir); err != nil {
		return err
	}
	for _, state := range []pack.State{pack.Closing, pack.Closed} {
		if err := f.WriteBlocks([][]byte{pack.Header(id, state)}, 0); err != nil {
			return err
		}
	}
	return f.Truncate(end)
}
