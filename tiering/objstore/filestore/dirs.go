package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"syscall"

	"github.com/varvelog/varve/internal/vfs"
)

// maxKnownDirs bounds the folders that a Store remembers as durable.
const maxKnownDirs = 1 << 16

// errDirFailed is what puts into a folder get after one of its fsyncs failed.
var errDirFailed = errors.New("an earlier fsync of the folder failed: its new names can't be trusted; check the disk and restart")

// dirs makes folders durable, with as few fsyncs as do.
type dirs struct {
	fs vfs.FS

	mu      sync.Mutex
	known   map[string]struct{} // folders whose own entries are durable, and their parents'
	syncing map[string]*dirSync // folders with an fsync under way or waited for
	failed  map[string]struct{}
}

// dirSync is the fsyncs of one folder: at most one under way and one to come.
//
//	put A  link ──▶ fsync 1 ████████
//	put B       link ──▶ waits ·····▶ fsync 2 ████████   began after its link
//	put C            link ──▶ waits ▶ fsync 2
type dirSync struct {
	running, next *round // nil: none
}

// round is one fsync and those who wait for it.
type round struct {
	done chan struct{} // closed once err is set
	err  error
}

func (d *dirs) init(files vfs.FS) {
	d.fs = files
	d.known = make(map[string]struct{})
	d.syncing = make(map[string]*dirSync)
	d.failed = make(map[string]struct{})
}

// ensure makes a folder and its parents, and their entries durable. It does so
// once for each, also where one is there already: whoever made it may not have
// come to its fsync.
func (d *dirs) ensure(dir string) error {
	d.mu.Lock()
	_, ok := d.known[dir]
	d.mu.Unlock()
	parent := path.Dir(dir)
	if ok || parent == dir {
		return nil
	}
	if err := d.ensure(parent); err != nil {
		return err
	}
	if err := d.fs.Mkdir(dir); errors.Is(err, fs.ErrExist) {
		if _, err := d.fs.Size(dir); !errors.Is(err, syscall.EISDIR) {
			return fmt.Errorf("make folder %s: %w", dir, syscall.ENOTDIR)
		}
	} else if err != nil {
		return err
	}
	if err := d.sync(parent); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxKnownDirs {
		clear(d.known)
	}
	d.known[dir] = struct{}{}
	return nil
}

// trusted returns an error for a folder one of whose fsyncs failed.
func (d *dirs) trusted(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.failed[dir]; ok {
		return fmt.Errorf("sync folder %s: %w", dir, errDirFailed)
	}
	return nil
}

// forget makes ensure look again.
func (d *dirs) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.known)
}

// sync returns after an fsync of the folder that began after sync was called.
func (d *dirs) sync(dir string) error {
	mine, before, err := d.join(dir)
	if err != nil {
		return err
	}
	if before == nil { // somebody else leads this round
		<-mine.done
		return mine.err
	}
	<-before // the fsync under way began too early for this round
	d.start(dir)
	mine.err = d.fs.SyncDir(dir)
	d.finish(dir, mine)
	return mine.err
}

// join enters the folder's next round. Who opens it leads it, and gets a
// channel that closes when the round before has ended.
func (d *dirs) join(dir string) (mine *round, before <-chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.failed[dir]; ok {
		return nil, nil, fmt.Errorf("sync folder %s: %w", dir, errDirFailed)
	}
	s := d.syncing[dir]
	if s == nil {
		s = &dirSync{}
		d.syncing[dir] = s
	}
	if s.next != nil {
		return s.next, nil, nil
	}
	s.next = &round{done: make(chan struct{})}
	if s.running != nil {
		return s.next, s.running.done, nil
	}
	none := make(chan struct{})
	close(none)
	return s.next, none, nil
}

// start closes the folder's next round for new members and makes it the running one.
func (d *dirs) start(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.syncing[dir]
	s.running, s.next = s.next, nil
}

// finish ends the running round and lets its members and the next leader go.
func (d *dirs) finish(dir string, r *round) {
	d.mu.Lock()
	if r.err != nil && !errors.Is(r.err, vfs.ErrNotSynced) { // the next round makes up for what was not synced
		d.failed[dir] = struct{}{}
	}
	s := d.syncing[dir]
	s.running = nil
	if s.next == nil {
		delete(d.syncing, dir)
	}
	d.mu.Unlock()
	close(r.done)
}
