// Package cold reads sealed segments: an offset resolves through the catalogue
// to a segment, through the segment's footer to a frame, and the frame's
// batches are returned as they were produced.
//
// A frame is read through the object cache, decompressed once and shared by
// the readers of the moment; while one is read, workers fetch those behind it. Footers, pages of
// segment entries and frames are cached within bounds.
package cold

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// Options are what a Reader needs.
type Options struct {
	Catalog   *catalog.Catalog
	Cache     *objcache.Cache
	Store     objstore.Store // for footers
	RAMBytes  int64          // of decompressed frames kept
	ReadAhead int            // frames fetched ahead of a reader; 0: 4
	Workers   int            // that fetch ahead; 0: 2
}

const (
	pageSegments = 256      // segment entries in a page
	maxPages     = 4096     // partitions whose page is kept
	footerBytes  = 16 << 20 // of footers kept
	loadTimeout  = 30 * time.Second
	resolves     = 3 // times that a reference is resolved anew after its object went
)

// Reader reads sealed segments. All methods are safe for concurrent use.
type Reader struct {
	o       Options
	dec     *bundle.FrameDecoder
	pages   *lru[kafka.TopicPartition, []catalog.Segment]
	footers *lru[string, *bundle.SegmentFooter]
	frames  *lru[frameKey, []byte]
	ahead   chan ahead
}

type frameKey struct {
	object string
	index  int
}

type ahead struct {
	seg    catalog.Segment
	footer *bundle.SegmentFooter
	index  int
}

// New returns a Reader. Reading ahead works while Run runs.
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
	return &Reader{
		o: o, dec: dec, ahead: make(chan ahead, 64),
		pages:   newLRU[kafka.TopicPartition, []catalog.Segment](maxPages),
		footers: newLRU[string, *bundle.SegmentFooter](footerBytes),
		frames:  newLRU[frameKey, []byte](o.RAMBytes),
	}, nil
}

// Run fetches ahead until ctx ends.
func (r *Reader) Run(ctx context.Context) error {
	done := make(chan struct{}, r.o.Workers)
	for range r.o.Workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case a := <-r.ahead:
					_, _ = r.frame(ctx, a.seg, a.footer, a.index) // whoever wants it meets the error himself
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	for range r.o.Workers {
		<-done
	}
	return nil
}

// Read returns whole batches of sealed segments, up to limit bytes but at least
// one batch; the first holds from or is the next one behind a hole. next is
// the offset to go on from. The buffers are immutable and need no release.
// objstore.ErrNotFound means that no segment holds from or anything behind it;
// kafka.KafkaStorageError that an object which the catalogue names is missing.
func (r *Reader) Read(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int64, _ *objcache.Arena) (bufs [][]byte, next kafka.Offset, err error) {
	err = r.resolving(tp, func() error {
		bufs, next, err = r.read(ctx, tp, from, limit)
		return err
	})
	return bufs, next, err
}

// errGone marks a missing object, to be resolved anew.
var errGone = errors.New("object is missing")

// resolving runs fn, and again with fresh entries when an object went missing.
func (r *Reader) resolving(tp kafka.TopicPartition, fn func() error) error {
	for range resolves {
		err := fn()
		if !errors.Is(err, errGone) {
			return err
		}
		r.Forget(tp)
	}
	return kafka.KafkaStorageError
}

func (r *Reader) read(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int64) ([][]byte, kafka.Offset, error) {
	for {
		seg, err := r.find(ctx, tp, from)
		if err != nil {
			return nil, from, err
		}
		if seg.Key == "" {
			from = seg.End
			continue
		}
		bufs, next, err := r.readSegment(ctx, seg, from, limit)
		if err != nil || len(bufs) > 0 {
			return bufs, next, err
		}
		from = seg.End // nothing is left behind from: a hole up to the end
	}
}

func (r *Reader) readSegment(ctx context.Context, seg catalog.Segment, from kafka.Offset, limit int64) (bufs [][]byte, next kafka.Offset, err error) {
	footer, err := r.Footer(ctx, seg)
	if err != nil {
		return nil, from, err
	}
	frames := footer.Frames
	i := sort.Search(len(frames), func(i int) bool { return frames[i].BaseOffset > from })
	i = max(i-1, 0)
	next = from
	for ; i < len(frames) && (limit > 0 || len(bufs) == 0); i++ {
		r.readAhead(seg, footer, i)
		raw, err := r.frame(ctx, seg, footer, i)
		if err != nil {
			if len(bufs) > 0 {
				return bufs, next, nil // what is there is right; the error will come back
			}
			return nil, from, err
		}
		run, after, err := cut(raw, next, limit, len(bufs) == 0)
		if err != nil {
			return nil, from, fmt.Errorf("segment %s: %w", seg.Key, err)
		}
		if len(run) == 0 {
			if after < 0 { // limit is reached
				break
			}
			continue
		}
		bufs, next = append(bufs, run), after
		limit -= int64(len(run))
	}
	if i == len(frames) && len(bufs) > 0 {
		next = max(next, seg.End)
	}
	return bufs, next, nil
}

// cut returns the batches of a frame that end at from or later, up to limit
// bytes, one at least where first. next is the offset behind them; -1 where a
// batch was left for want of room and none taken.
func cut(raw []byte, from kafka.Offset, limit int64, first bool) (run []byte, next kafka.Offset, err error) {
	begin, end := -1, 0
	next = from
	for pos := 0; pos < len(raw); {
		h, err := record.ParseHeader(raw[pos:])
		if err != nil || h.Size() > len(raw)-pos {
			return nil, from, errors.Join(err, record.ErrTruncated)
		}
		size := h.Size()
		if h.LastOffset() < from {
			pos += size
			continue
		}
		if begin < 0 {
			begin, end = pos, pos
		}
		if int64(pos+size-begin) > limit && !(first && end == begin) {
			if end == begin {
				return nil, -1, nil
			}
			break
		}
		pos += size
		end, next = pos, h.LastOffset()+1
	}
	if begin < 0 {
		return nil, from, nil
	}
	return raw[begin:end:end], next, nil
}

// readAhead hands the frames behind i to the workers, where they have room.
func (r *Reader) readAhead(seg catalog.Segment, footer *bundle.SegmentFooter, i int) {
	for j := i + 1; j <= i+r.o.ReadAhead && j < len(footer.Frames); j++ {
		if r.frames.has(frameKey{seg.Key, j}) {
			continue
		}
		select {
		case r.ahead <- ahead{seg, footer, j}:
		default:
			return
		}
	}
}

// frame returns a frame's batches, decompressed.
func (r *Reader) frame(ctx context.Context, seg catalog.Segment, footer *bundle.SegmentFooter, i int) ([]byte, error) {
	f := footer.Frames[i]
	return r.frames.get(ctx, frameKey{seg.Key, i}, func(ctx context.Context) ([]byte, int64, error) {
		arena := objcache.NewArena()
		defer arena.Release()
		bufs, err := r.o.Cache.Read(ctx, seg.Key, f.Pos, int64(f.Len), arena)
		if err != nil {
			return nil, 0, gone(err)
		}
		data := bufs[0]
		if len(bufs) > 1 {
			data = arena.Alloc(int(f.Len))[:0]
			for _, b := range bufs {
				data = append(data, b...)
			}
		}
		raw, err := r.dec.Decode(make([]byte, 0, f.RawLen), f, data)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: segment %s: %w", kafka.KafkaStorageError, seg.Key, err)
		}
		return raw, int64(f.RawLen), nil
	})
}

// Footer returns a segment's footer.
func (r *Reader) Footer(ctx context.Context, seg catalog.Segment) (*bundle.SegmentFooter, error) {
	return r.footers.get(ctx, seg.Key, func(ctx context.Context) (*bundle.SegmentFooter, int64, error) {
		obj, err := bundle.Read(ctx, bundle.At(r.o.Store, seg.Key), make([]byte, min(max(seg.FooterLen, 4<<10), 1<<20)))
		if err != nil {
			return nil, 0, gone(err)
		}
		if obj.Segment == nil || obj.Segment.Base != seg.Base || obj.Segment.End != seg.End {
			return nil, 0, fmt.Errorf("%w: object %s is not the segment that the catalogue has", kafka.KafkaStorageError, seg.Key)
		}
		return obj.Segment, seg.FooterLen * 4, nil
	})
}

func gone(err error) error {
	if errors.Is(err, objstore.ErrNotFound) {
		return errGone
	}
	return err
}

// find returns the segment that holds from, or the next one behind it.
func (r *Reader) find(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset) (catalog.Segment, error) {
	for fresh := range 2 {
		page, err := r.pages.get(ctx, tp, func(ctx context.Context) ([]catalog.Segment, int64, error) {
			segs, err := r.o.Catalog.Segments(ctx, tp, from, pageSegments)
			return segs, 1, err
		})
		if err != nil {
			return catalog.Segment{}, fmt.Errorf("find segment of %s at %d: %w", tp, from, err)
		}
		i := sort.Search(len(page), func(i int) bool { return page[i].End > from })
		// A page knows what lies between its entries, not what lies before the first.
		if i < len(page) && (page[i].Base <= from || i > 0 || fresh == 1) {
			return page[i], nil
		}
		if fresh == 0 {
			r.pages.remove(tp)
		}
	}
	return catalog.Segment{}, objstore.ErrNotFound
}

// Forget drops a partition's cached entries: its segments changed.
func (r *Reader) Forget(tp kafka.TopicPartition) { r.pages.remove(tp) }
