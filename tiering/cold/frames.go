package cold

import (
	"context"
	"sync"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
)

// frameKey names a frame: its place in a segment's index.
type frameKey struct {
	object string
	index  int
}

// frame returns a frame's batches, decompressed.
func (r *Reader) frame(ctx context.Context, seg catalog.Segment, footer *bundle.SegmentFooter, i int) ([]byte, error) {
	return r.frames.get(ctx, frameKey{seg.Key, i}, func(ctx context.Context) ([]byte, int64, error) {
		return r.loadFrame(ctx, seg, footer.Frames[i])
	})
}

// loadFrame reads, checks and decompresses a frame. f's lengths were checked
// against the object's size and bundle.MaxFrame when the footer was read.
func (r *Reader) loadFrame(ctx context.Context, seg catalog.Segment, f bundle.Frame) ([]byte, int64, error) {
	arena := objcache.NewArena()
	defer arena.Release()
	data, err := r.frameBytes(ctx, seg.Key, f, arena)
	if err != nil {
		return nil, 0, damage(seg, err)
	}
	raw, err := r.dec.Decode(make([]byte, 0, f.RawLen), f, data)
	if err != nil {
		return nil, 0, damage(seg, err)
	}
	r.count.loads.Add(1)
	r.count.readBytes.Add(int64(f.Len))
	r.count.rawBytes.Add(int64(f.RawLen))
	return raw, int64(cap(raw)), nil
}

// frameBytes reads a frame as it lies in the object, into one buffer.
func (r *Reader) frameBytes(ctx context.Context, key string, f bundle.Frame, arena *objcache.Arena) ([]byte, error) {
	n := int64(f.Len)
	if n <= objcache.MaxRead {
		bufs, err := r.o.Cache.Read(ctx, key, f.Pos, n, arena)
		if err != nil {
			return nil, err
		}
		if len(bufs) == 1 {
			return bufs[0], nil
		}
		return join(arena.Alloc(int(n))[:0], bufs), nil
	}
	data := make([]byte, 0, n) // a frame of one huge batch
	for pos := int64(0); pos < n; pos += objcache.MaxRead {
		bufs, err := r.o.Cache.Read(ctx, key, f.Pos+pos, min(objcache.MaxRead, n-pos), arena)
		if err != nil {
			return nil, err
		}
		data = join(data, bufs)
		arena.Release()
	}
	return data, nil
}

func join(dst []byte, bufs [][]byte) []byte {
	for _, b := range bufs {
		dst = append(dst, b...)
	}
	return dst
}

// ahead is a frame to be fetched ahead: the index-th of a segment, or, counted
// on, of the segment behind it.
type ahead struct {
	seg    catalog.Segment
	footer *bundle.SegmentFooter
	index  int
}

func (a ahead) key() frameKey { return frameKey{a.seg.Key, a.index} }

// aheadQueue is the frames that were asked for ahead, each once.
type aheadQueue struct {
	queue chan ahead

	mu    sync.Mutex
	asked map[frameKey]bool // queued or being fetched
}

func newAheadQueue(n int) *aheadQueue {
	return &aheadQueue{queue: make(chan ahead, n), asked: make(map[frameKey]bool)}
}

// ask queues a frame, unless it is or there is no room.
func (q *aheadQueue) ask(a ahead) (room bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked[a.key()] {
		return true
	}
	select { // does not wait
	case q.queue <- a:
		q.asked[a.key()] = true
		return true
	default:
		return false
	}
}

func (q *aheadQueue) done(a ahead) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.asked, a.key())
}

// askAhead asks the workers for the frames behind the i-th, the nearest first,
// as far as there is room for them: one that came too early would push out, or be pushed
// out by, what is read before it.
func (r *Reader) askAhead(seg catalog.Segment, footer *bundle.SegmentFooter, i int) {
	room := r.frames.roomAhead()
	for j := i + 1; j <= i+r.o.ReadAhead; j++ {
		if j < len(footer.Frames) && r.frames.has(frameKey{seg.Key, j}) {
			continue
		}
		room -= int64(footer.Frames[min(j, len(footer.Frames)-1)].RawLen) // a guess, in the next segment
		if room < 0 || !r.ahead.ask(ahead{seg, footer, j}) {
			return
		}
	}
}

// fetchAhead fetches a frame, if there is room. Whoever wants the frame meets
// the error himself.
func (r *Reader) fetchAhead(ctx context.Context, a ahead) {
	defer r.ahead.done(a)
	seg, footer, i := a.seg, a.footer, a.index
	if i >= len(footer.Frames) {
		i -= len(footer.Frames)
		var ok bool
		if seg, ok = r.pages.lookup(seg.TP, seg.End); !ok || seg.Key == "" {
			return // not known without asking the catalogue
		}
		var err error
		if footer, err = r.Footer(ctx, seg); err != nil || i >= len(footer.Frames) {
			return
		}
	}
	f := footer.Frames[i]
	loaded := r.frames.prefetch(ctx, frameKey{seg.Key, i}, int64(f.RawLen), func(ctx context.Context) ([]byte, int64, error) {
		return r.loadFrame(ctx, seg, f)
	})
	if loaded {
		r.count.ahead.Add(1)
	}
}
