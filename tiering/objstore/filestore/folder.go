package filestore

import (
	"cmp"
	"io"
	"slices"
	"sync"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// maxFolders bounds the folders that a Store remembers.
const maxFolders = 1 << 14

// folders is what a Store knows of its folders.
type folders struct {
	mu    sync.Mutex
	known map[string]*folder // by path
	clock int64              // counts uses
}

// folder is a folder of objects.
type folder struct {
	dir string

	// Owned by folders.mu.
	uses int   // calls that are at it
	used int64 // when the last one began

	mu       sync.Mutex    // owns what follows
	settled  bool          // its names can be trusted: no loss of power has taken one
	home     io.Closer     // the lock that makes this Store its home; nil: it is not
	pack     *openPack     // that takes records; nil: none
	changing bool          // somebody opens or closes the pack, or the file system has none
	puts     int           // that would have gone into a pack, since there is none
	read     chan struct{} // closed once the headers in its packs were read; nil: nobody has begun
}

// openPack is the pack that a home writes.
type openPack struct {
	id   pack.ID
	path string
	file vfs.BlockFile
	size int64

	// Owned by folder.mu.
	next    int64               // where the next record goes
	writing int                 // puts that have a place in it
	names   map[string]struct{} // that have one
	leaving bool                // it takes no more, and is closed once writing is 0
	failed  bool                // a put's outcome is unknown
}

// use returns a folder; the caller calls done.
func (fs *folders) use(dir string) *folder {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.known[dir]
	if f == nil {
		if len(fs.known) >= maxFolders {
			fs.forget()
		}
		f = &folder{dir: dir}
		fs.known[dir] = f
	}
	fs.clock++
	f.uses, f.used = f.uses+1, fs.clock
	return f
}

func (fs *folders) done(f *folder) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.uses--
}

// forget drops the folders that nobody is at and that are not this Store's, under the lock.
func (fs *folders) forget() {
	for dir, f := range fs.known {
		if f.uses == 0 && !f.isHome() {
			delete(fs.known, dir)
		}
	}
}

// homes returns the folders whose home this Store is, the one used last at the end.
func (fs *folders) homes() (homes []*folder) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.known {
		if f.isHome() {
			homes = append(homes, f)
		}
	}
	slices.SortFunc(homes, func(a, b *folder) int { return cmp.Compare(a.used, b.used) })
	return homes
}

// startReading returns what is closed once the headers in the folder's packs were
// read; who is the first reads them, and closes it.
func (f *folder) startReading() (done chan struct{}, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if first = f.read == nil; first {
		f.read = make(chan struct{})
	}
	return f.read, first
}

func (f *folder) isHome() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.home != nil
}
