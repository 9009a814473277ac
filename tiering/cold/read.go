package cold

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// Read returns whole batches of one sealed segment, up to limit bytes but at
// least one batch; the first holds from or is the next one behind a hole; none
// where only a hole is left. next is the offset to go on from. The buffers are immutable and live as long as
// somebody refers to them, whatever becomes of the arena.
// Errors: objstore.ErrNotFound when no segment holds from or anything behind
// it; kafka.KafkaStorageError, wrapped, when an object that the catalogue names is
// missing or damaged; others, and ctx's, wrapped.
func (r *Reader) Read(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int64, _ *objcache.Arena) (bufs [][]byte, next kafka.Offset, err error) {
	err = r.resolving(ctx, tp, func() error {
		bufs, next, err = r.read(ctx, tp, from, limit)
		return err
	})
	if err != nil {
		return nil, from, err
	}
	return bufs, next, nil
}

func (r *Reader) read(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, limit int64) ([][]byte, kafka.Offset, error) {
	for at := from; ; {
		seg, err := r.find(ctx, tp, at)
		if at > from && errors.Is(err, objstore.ErrNotFound) {
			return nil, at, nil
		}
		if err != nil {
			return nil, from, err
		}
		if seg.Key == "" { // an empty placeholder
			at = seg.End
			continue
		}
		bufs, next, err := r.readSegment(ctx, seg, at, limit)
		if err != nil || len(bufs) > 0 {
			return bufs, next, err
		}
		at = next // a hole up to the segment's end
	}
}

// readSegment returns batches of one segment from an offset on; none where
// only a hole is left, then next is the segment's end.
func (r *Reader) readSegment(ctx context.Context, seg catalog.Segment, from kafka.Offset, limit int64) (bufs [][]byte, next kafka.Offset, err error) {
	footer, err := r.Footer(ctx, seg)
	if err != nil {
		return nil, from, err
	}
	w := window{next: from, room: limit}
	for i := frameAt(footer.Frames, from); i < len(footer.Frames); i++ {
		r.askAhead(seg, footer, i)
		raw, err := r.frame(ctx, seg, footer, i)
		if err != nil && len(bufs) > 0 {
			return bufs, w.next, nil // what is there is right; the next read meets the error
		}
		if err != nil {
			return nil, from, err
		}
		run, full, err := w.cut(raw)
		if err != nil {
			return nil, from, fmt.Errorf("read segment %s: %w: %w", seg.Key, kafka.KafkaStorageError, err)
		}
		if len(run) > 0 {
			bufs = append(bufs, run)
		}
		if full {
			return bufs, w.next, nil
		}
	}
	return bufs, max(w.next, seg.End), nil
}

// frameAt returns the index of the last frame that begins at off or before, 0
// if none does.
func frameAt(frames []bundle.Frame, off kafka.Offset) int {
	i := sort.Search(len(frames), func(i int) bool { return frames[i].BaseOffset > off })
	return max(i-1, 0)
}

// window takes batches from one frame after another.
type window struct {
	next  kafka.Offset // batches that end before it are passed over
	room  int64        // bytes; the first batch needs none
	taken bool         // the first batch was taken
}

// cut returns the batches of a frame that the window takes. full means that
// the window takes no more.
//
//	raw  [ before next ][ before next ][  taken  ][  taken  ][ no room ][ … ]
//	                                   └───────  run  ──────┘ next
func (w *window) cut(raw []byte) (run []byte, full bool, err error) {
	begin, end := 0, 0
	for end < len(raw) {
		h, err := record.ParseHeader(raw[end:])
		if err == nil && h.Size() > len(raw)-end {
			err = record.ErrTruncated
		}
		if err != nil {
			return nil, false, err
		}
		size := int64(h.Size())
		switch {
		case h.LastOffset() < w.next:
			begin += h.Size() // nothing is taken before it: offsets ascend
		case w.taken && size > w.room:
			return raw[begin:end:end], true, nil
		default:
			w.next, w.taken = h.LastOffset()+1, true
			w.room -= size
		}
		end += h.Size()
	}
	return raw[begin:end:end], w.taken && w.room <= 0, nil
}
