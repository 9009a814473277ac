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
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

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
type Cache struct {
	store   objstore.Store
	ram     *ram
	disk    *disk // nil: none
	flights *flights
	count   counters
}

// counters are the parts of Stats that Read and Fill count.
type counters struct {
	ramHits, ramHitBytes   atomic.Int64
	diskHits, diskHitBytes atomic.Int64
	misses, missBytes      atomic.Int64
	shared                 atomic.Int64
	fills, fillBytes       atomic.Int64
}

// New makes a cache and takes up what an earlier one left in Options.Disk. It
// starts nothing; the disk layer is written while Run runs.
func New(o Options) (*Cache, error) {
	c := &Cache{store: o.Store, ram: newRAM(o.RAMBytes), flights: newFlights()}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Disk != nil && o.DiskBytes > 0 {
		var err error
		if c.disk, err = openDisk(o.Disk, o.DiskBytes, o.Logger); err != nil {
			return nil, fmt.Errorf("open object cache: %w", err)
		}
	}
	if o.Registerer != nil {
		if err := register(o.Registerer, c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return c, nil
}

// Fill keeps an object's bytes in RAM, and hands them to the disk layer. It
// retains the buffers: nobody may change them afterwards. Pieces ascend and
// don't overlap; they may leave gaps. A second Fill of a key replaces the
// first. It never blocks on I/O.
func (c *Cache) Fill(key string, pieces []Piece) {
	kept := make([]Piece, 0, len(pieces))
	var end, size int64
	for _, p := range pieces {
		if p.Off < end {
			panic(fmt.Sprintf("objcache: piece of %s at %d begins before the end of the last one, %d", key, p.Off, end))
		}
		if len(p.Data) == 0 {
			continue
		}
		kept = append(kept, p)
		end = p.Off + int64(len(p.Data))
		size += int64(len(p.Data))
	}
	c.count.fills.Add(1)
	c.count.fillBytes.Add(size)
	c.ram.fill(key, kept)
	if c.disk != nil {
		c.disk.fill(key, kept)
	}
}

// Read returns exactly n bytes of an object from off, in one or more buffers,
// which must not be changed: from RAM by reference, else from disk or by one
// ranged read of the store into memory of a, valid until a.Release (a nil: into
// memory of their own). What came from the store is kept on the disk layer.
// objstore.ErrNotFound passes through; a range past the object's end is
// io.ErrUnexpectedEOF.
func (c *Cache) Read(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error) {
	return c.read(ctx, rangeKey{key, off, n}, a, true)
}

// ReadOnce is Read for bytes that nobody will want soon again (sealing,
// verifying): it leaves the disk layer as it is.
func (c *Cache) ReadOnce(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error) {
	return c.read(ctx, rangeKey{key, off, n}, a, false)
}

func (c *Cache) read(ctx context.Context, k rangeKey, a *Arena, keep bool) ([][]byte, error) {
	if k.off < 0 || k.n < 0 || k.n > MaxRead || k.off+k.n < k.off {
		return nil, fmt.Errorf("%w: %d bytes at %d of %s", ErrRange, k.n, k.off, k.key)
	}
	if k.n == 0 {
		return nil, nil
	}
	if bufs := c.ram.read(k.key, k.off, k.n); bufs != nil {
		c.count.ramHits.Add(1)
		c.count.ramHitBytes.Add(k.n)
		return bufs, nil
	}
	buf, view, shared, err := c.flights.do(ctx, k, func() (*buffer, []byte, error) { return c.load(ctx, k, keep) })
	if shared {
		c.count.shared.Add(1)
	}
	if err != nil {
		return nil, err
	}
	a.adopt(buf)
	return [][]byte{view}, nil
}

// load reads a range from disk, else from the store.
func (c *Cache) load(ctx context.Context, k rangeKey, keep bool) (*buffer, []byte, error) {
	if c.disk != nil {
		if buf, view := c.disk.read(k); buf != nil {
			c.count.diskHits.Add(1)
			c.count.diskHitBytes.Add(k.n)
			return buf, view, nil
		}
	}
	c.count.misses.Add(1)
	buf := newBuffer(int(k.n))
	n, size, err := c.store.ReadAt(ctx, k.key, buf.b, k.off)
	c.count.missBytes.Add(int64(n))
	if n < len(buf.b) && (err == nil || errors.Is(err, io.EOF)) {
		err = fmt.Errorf("read %d bytes at %d of %s, which has %d: %w", k.n, k.off, k.key, size, io.ErrUnexpectedEOF)
	}
	if n == len(buf.b) {
		err = nil
	}
	if err != nil {
		buf.release()
		return nil, nil, err
	}
	if c.disk != nil && keep {
		c.disk.keep(k, buf)
	}
	return buf, buf.b, nil
}

// Forget drops what the cache has of an object, once it is deleted.
func (c *Cache) Forget(key string) {
	c.ram.forget(key)
	if c.disk != nil {
		c.disk.forget(key)
	}
}

// Run writes the disk layer until ctx ends, and returns ctx's error. It is
// called at most once at a time.
func (c *Cache) Run(ctx context.Context) error {
	if c.disk == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.disk.run(ctx)
}
