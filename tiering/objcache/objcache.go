// Package objcache is the object cache: recent bytes of objects in RAM and,
// optionally, on a local disk, in front of an object store.
//
// Objects are immutable, so a cached range can be missing but never stale, and
// losing the cache costs speed only. Three layers are asked in turn:
//
//	RAM    the very buffers that the WAL writer put (Fill): no copy on the way
//	       in, none on the way to a checkpoint (Carry), none on the way out;
//	       first in, first out, bounded by bytes
//	disk   extents of objects in a few large files, each block under a CRC;
//	       bounded by bytes, the oldest file goes first; off where the store
//	       is local files
//	store  one ranged read; equal reads of the moment share it
//
// Buffers that come from disk or store belong to the caller's Arena and go
// back to the pool when its response is written.
package objcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
)

// MaxRead is the longest range in bytes that one Read takes.
const MaxRead = 64 << 20

// ReadLong reads a range of any length from a cache, in parts that Read takes.
func ReadLong(ctx context.Context, c interface {
	Read(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error)
}, key string, off, n int64, a *Arena,
) ([][]byte, error) {
	if n <= MaxRead {
		return c.Read(ctx, key, off, n, a)
	}
	var all [][]byte
	for n > 0 {
		part := min(n, MaxRead)
		bufs, err := c.Read(ctx, key, off, part, a)
		if err != nil {
			return nil, err
		}
		all = append(all, bufs...)
		off, n = off+part, n-part
	}
	return all, nil
}

const (
	maxParallel = 8        // reads of one Prefetch at the same time
	nearGap     = 64 << 10 // bytes that are read in vain rather than read twice
	nearMax     = 4 << 20  // the longest read that others are joined to
)

// Large reads of the store are of whole blocks, into memory that is aligned as
// blocks are, so that a store of files can read past the page cache.
const (
	block       = 4 << 10
	wholeBlocks = 64 << 10
)

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

// Carried is a range that lies in another object too, from Off bytes on.
type Carried struct {
	From Range
	Off  int64
}

// Carry tells that an object was made of parts of others, which ascend in Off and don't overlap. Those that RAM has
// whole it has of the new object, too, by reference, and not for longer than of the others.
func (c *Cache) Carry(key string, parts []Carried) { c.ram.carry(key, parts) }

// Read returns exactly n bytes of an object from off, in one or more buffers,
// which must not be changed: from RAM by reference, else from disk or by one
// ranged read of the store into memory of a, valid until a.Release (a nil: into
// memory of their own). What came from the store is kept on the disk layer.
// objstore.ErrNotFound passes through; a range past the object's end is
// io.ErrUnexpectedEOF.
func (c *Cache) Read(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error) {
	return c.read(ctx, Range{key, off, n}, a, true)
}

// ReadOnce is Read for bytes that nobody will want soon again (sealing,
// verifying): it leaves the disk layer as it is.
func (c *Cache) ReadOnce(ctx context.Context, key string, off, n int64, a *Arena) ([][]byte, error) {
	return c.read(ctx, Range{key, off, n}, a, false)
}

// Range is a range of an object, N bytes from Off.
type Range struct {
	Key    string
	Off, N int64
}

// Prefetch reads what Reads into the same arena are about to want: ranges that
// lie near each other in one object together, several objects at the same
// time. Where it fails, the Read that follows says why.
func (c *Cache) Prefetch(ctx context.Context, ranges []Range, a *Arena) {
	missing := slices.DeleteFunc(ranges, func(r Range) bool {
		return c.ram.read(r.Key, r.Off, r.N) != nil || a.find(r) != nil
	})
	missing = joinNear(missing)
	arenas := make([]Arena, len(missing))
	var g errgroup.Group
	g.SetLimit(maxParallel)
	for i, r := range missing {
		read := func() error {
			_, err := c.read(ctx, r, &arenas[i], true)
			return err
		}
		if i == len(missing)-1 {
			_ = read()
		} else {
			g.Go(read)
		}
	}
	_ = g.Wait() // told by the Reads
	for i := range arenas {
		a.Take(&arenas[i])
	}
}

// joinNear joins ranges of one object with little between them. It may
// reorder and overwrite ranges.
func joinNear(ranges []Range) []Range {
	slices.SortFunc(ranges, func(a, b Range) int { return cmp.Or(strings.Compare(a.Key, b.Key), cmp.Compare(a.Off, b.Off)) })
	joined := ranges[:0]
	for _, r := range ranges {
		if n := len(joined); n > 0 {
			last := &joined[n-1]
			end := max(last.Off+last.N, r.Off+r.N)
			if last.Key == r.Key && r.Off-(last.Off+last.N) <= nearGap && end-last.Off <= nearMax {
				last.N = end - last.Off
				continue
			}
		}
		joined = append(joined, r)
	}
	return joined
}

func (c *Cache) read(ctx context.Context, k Range, a *Arena, keep bool) ([][]byte, error) {
	if k.Off < 0 || k.N < 0 || k.N > MaxRead || k.Off+k.N < k.Off {
		return nil, fmt.Errorf("%w: %d bytes at %d of %s", ErrRange, k.N, k.Off, k.Key)
	}
	if k.N == 0 {
		return nil, nil
	}
	if bufs := c.ram.read(k.Key, k.Off, k.N); bufs != nil {
		c.count.ramHits.Add(1)
		c.count.ramHitBytes.Add(k.N)
		return bufs, nil
	}
	if view := a.find(k); view != nil {
		return [][]byte{view}, nil
	}
	buf, view, shared, err := c.flights.do(ctx, k, func() (*buffer, []byte, error) { return c.load(ctx, k, keep) })
	if shared {
		c.count.shared.Add(1)
	}
	if err != nil {
		return nil, err
	}
	a.adopt(held{k, view, buf})
	return [][]byte{view}, nil
}

// load reads a range from disk, else from the store.
func (c *Cache) load(ctx context.Context, k Range, keep bool) (*buffer, []byte, error) {
	if c.disk != nil {
		if buf, view := c.disk.read(k); buf != nil {
			c.count.diskHits.Add(1)
			c.count.diskHitBytes.Add(k.N)
			return buf, view, nil
		}
	}
	c.count.misses.Add(1)
	lo, n := k.Off, k.N
	if c.disk == nil && n >= wholeBlocks { // the store is local files, most likely
		lo &^= block - 1
		n = (k.Off + k.N - lo + block - 1) &^ (block - 1)
	}
	buf := newBuffer(int(n))
	got, size, err := c.store.ReadAt(ctx, k.Key, buf.b, lo)
	c.count.missBytes.Add(int64(got))
	view, ok := within(buf.b[:got], k.Off-lo, k.N)
	if !ok && (err == nil || errors.Is(err, io.EOF)) {
		err = fmt.Errorf("read %d bytes at %d of %s, which has %d: %w", k.N, k.Off, k.Key, size, io.ErrUnexpectedEOF)
	}
	if !ok {
		buf.release()
		return nil, nil, err
	}
	if c.disk != nil && keep {
		c.disk.keep(k, buf)
	}
	return buf, view, nil
}

// within returns the n bytes at off of b, if it has them.
func within(b []byte, off, n int64) ([]byte, bool) {
	if off+n > int64(len(b)) {
		return nil, false
	}
	return b[off : off+n : off+n], true
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
