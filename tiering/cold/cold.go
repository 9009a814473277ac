// Package cold reads sealed segments: an offset resolves through the catalogue
// to a segment, through the segment's footer to a frame, and the frame's
// batches are returned as they were produced, by reference.
//
//	offset ─▶ pages ─▶ segment ─▶ footers ─▶ frame ─▶ frames ─▶ batches
//	       (catalogue)         (object's tail)     (object cache, zstd)
//
// A frame is read through the object cache, decompressed once and shared by
// the readers of the moment; while one is read, workers fetch those behind it.
// Pages of segment entries, footers and frames are cached within bounds.
//
// What a page says may be out of date: retention and compaction unreference an
// object before they delete it. A missing object is therefore looked up anew
// in the catalogue; only when it is still named there has the log lost it.
package cold

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// Options are what a Reader needs.
type Options struct {
	Catalog    *catalog.Catalog
	Cache      *objcache.Cache       // frames are read through it
	Store      objstore.Store        // footers are read from it
	RAMBytes   int64                 // bound of the decompressed frames kept
	ReadAhead  int                   // frames fetched ahead of a reader; 0: 4
	Workers    int                   // that fetch ahead; 0: 2
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	pageEntries = 64       // segment entries read at once
	maxEntries  = 64 << 10 // segment entries kept
	footerBytes = 16 << 20 // of footers kept
	maxAhead    = 256      // frames asked for and not yet fetched
	loadTimeout = 30 * time.Second
	resolves    = 3 // times that a missing object is looked up anew
)

// ErrGone is returned by Footer for an object that is not there: its entry may be
// out of date.
var ErrGone = errors.New("cold: object is missing")

// Reader reads sealed segments. All methods are safe for concurrent use.
type Reader struct {
	o       Options
	dec     *bundle.FrameDecoder
	pages   *pages
	footers *lru[string, *bundle.SegmentFooter]
	frames  *lru[frameKey, []byte]
	ahead   *aheadQueue
	count   counters
}

// New returns a Reader. It starts nothing; reading ahead works while Run runs.
func New(o Options) (*Reader, error) {
	if o.ReadAhead == 0 {
		o.ReadAhead = 4
	}
	if o.Workers == 0 {
		o.Workers = 2
	}
	dec, err := bundle.NewFrameDecoder()
	if err != nil {
		return nil, err
	}
	r := &Reader{
		o: o, dec: dec, ahead: newAheadQueue(maxAhead),
		pages:   newPages(maxEntries),
		footers: newLRU[string, *bundle.SegmentFooter](footerBytes),
		frames:  newLRU[frameKey, []byte](o.RAMBytes),
	}
	if o.Registerer != nil {
		if err := r.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return r, nil
}

// Run fetches ahead until ctx ends.
func (r *Reader) Run(ctx context.Context) error {
	var g errgroup.Group
	for range r.o.Workers {
		g.Go(func() error {
			for {
				select {
				case a := <-r.ahead.queue:
					r.fetchAhead(ctx, a)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return g.Wait()
}

// Forget drops a partition's cached entries: some were removed or replaced.
// A new segment behind those that are known needs no Forget.
func (r *Reader) Forget(tp kafka.TopicPartition) { r.pages.remove(tp) }

// resolving runs fn, and again with fresh entries when an object is missing.
func (r *Reader) resolving(ctx context.Context, tp kafka.TopicPartition, fn func() error) error {
	var err error
	for range resolves {
		if err = fn(); !errors.Is(err, ErrGone) {
			return err
		}
		r.count.gone.Add(1)
		r.Forget(tp)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", kafka.KafkaStorageError, err)
}

// find returns the segment that holds an offset, or the next one behind it;
// objstore.ErrNotFound where there is none.
func (r *Reader) find(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset) (catalog.Segment, error) {
	if seg, ok := r.pages.lookup(tp, from); ok {
		return seg, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	segs, err := r.o.Catalog.Segments(ctx, tp, from, pageEntries)
	if err != nil {
		return catalog.Segment{}, fmt.Errorf("find segment of %s at offset %d: %w", tp, from, err)
	}
	if len(segs) == 0 {
		return catalog.Segment{}, fmt.Errorf("find segment of %s at offset %d: %w", tp, from, objstore.ErrNotFound)
	}
	r.pages.add(tp, from, segs)
	return segs[0], nil
}

// Footer returns a segment's footer, which must not be changed. ErrGone: it is to
// be looked up anew (Forget). errors.Is
// kafka.KafkaStorageError: the object is not what the catalogue says.
func (r *Reader) Footer(ctx context.Context, seg catalog.Segment) (*bundle.SegmentFooter, error) {
	return r.footers.get(ctx, seg.Key, func(ctx context.Context) (*bundle.SegmentFooter, int64, error) {
		footer, err := ReadFooter(ctx, r.o.Store, seg)
		return footer, 4 * max(seg.FooterLen, 1<<10), err // about what it takes decoded
	})
}

// ReadFooter is Footer for those who read without a Reader.
func ReadFooter(ctx context.Context, store objstore.Store, seg catalog.Segment) (*bundle.SegmentFooter, error) {
	obj, err := bundle.Read(ctx, bundle.At(store, seg.Key), make([]byte, min(max(seg.FooterLen, 4<<10), 1<<20)))
	if err == nil {
		err = matches(obj, seg)
	}
	if err != nil {
		return nil, damage(seg, err)
	}
	return obj.Segment, nil
}

// matches tells whether an object can be the one that an entry names.
func matches(obj *bundle.Object, seg catalog.Segment) error {
	g := obj.Segment
	switch {
	case g == nil:
		return fmt.Errorf("%w: an object of kind %d, not a segment", bundle.ErrCorrupt, obj.Kind)
	case g.State.TP != seg.TP, g.Base < seg.Base, g.End != seg.End:
		return fmt.Errorf("%w: it is the segment of %s from offset %d to %d", bundle.ErrCorrupt, g.State.TP, g.Base, g.End)
	}
	return nil
}

// damage names the segment in an error, and tells a missing object and
// a damaged one from a store that fails.
func damage(seg catalog.Segment, err error) error {
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return fmt.Errorf("read segment %s: %w", seg.Key, ErrGone)
	case errors.Is(err, bundle.ErrCorrupt):
		return fmt.Errorf("read segment %s: %w: %w", seg.Key, kafka.KafkaStorageError, err)
	}
	return fmt.Errorf("read segment %s: %w", seg.Key, err)
}
