// Package objcache is the object cache: recent bytes of objects in RAM and,
// optionally, on a local disk, in front of an object store.
//
// Objects are immutable, so a cached range can be missing but never stale, and
// losing the cache costs speed only. Three layers are asked in turn:
//
//	RAM    the very buffers that the WAL writer put (Fill): no copy on the way
//	       in, none on the way out; first in, first out, bounded by bytes
//	disk   extents of objects in a few large files, each block under a CRC;
//	       bounded by bytes, the oldest file goes first; off where the store
//	       is local files
//	store  one ranged read; equal reads of the moment share it
//
// Buffers that come from disk or store belong to the caller's Arena and go
// back to the pool when its response is written.
package objcache

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
)

// MaxRead is the longest range in bytes that one Read takes.
const MaxRead = 64 << 20

// ErrRange is returned by Read for a negative offset or length, or one longer
// than MaxRead.
var ErrRange = errors.New("objcache: invalid range")

// Options configure a Cache.
type Options struct {
	Store      objstore.Store
	RAMBytes   int64                 // bound of the RAM layer in bytes; 0: no RAM layer
	Disk       vfs.FS                // folder of the disk layer, its own; nil: none
	DiskBytes  int64                 // bound of the disk layer in bytes; 0: none
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Piece is a part of an object: Data lies at Off bytes from its beginning.
type Piece struct {
	Off  int64
	Data []byte
}

// Cache is the object cache. All methods are safe for concurrent use.
type Cache struct{}

// New makes a cache and takes up what an earlier one left in Options.Disk. It
// starts nothing; the disk layer is written while Run runs.
func New(o Options) (*Cache, error) { return &Cache{}, nil }

// Fill keeps an object's bytes in RAM, and hands them to the disk layer. It
// retains the buffers: nobody may change them afterwards. Pieces ascend and
// don't overlap; they may leave gaps. A second Fill of a key replaces the
// first. It never blocks on I/O.
func (c *Cache) Fill(key string, pieces []Piece) {}

// Read returns exactly n bytes of an object from off, in one or more buffers,
// which must not be changed: from RAM by reference, else from disk or by one
// ranged read of the store into memory of a, valid until a.Release (a nil: into
// memory of their own). What came from the store is kept on the disk layer.
// objstore.ErrNotFound passes through; a range past the object's end is
// io.ErrUnexpectedEOF.
func (c *Cache) Read(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error) {
	return nil, nil
}

// ReadOnce is Read for bytes that nobody will want soon again (sealing,
// verifying): it leaves the disk layer as it is.
func (c *Cache) ReadOnce(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error) {
	return nil, nil
}

// Forget drops what the cache has of an object, once it is deleted.
func (c *Cache) Forget(key string) {}

// Run writes the disk layer until ctx ends, and returns ctx's error.
func (c *Cache) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Stats returns the cache's counters.
func (c *Cache) Stats() Stats { return Stats{} }
