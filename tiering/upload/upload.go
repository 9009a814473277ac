// Package upload writes what leaves the WAL: sealed segments, and checkpoints
// of the tails that are too short for one. Both are streamed, so memory does
// not grow with them; every batch's checksum and place is checked on the way,
// so damage is never sealed. Nothing is registered here: the caller commits
// what it gets to the catalogue (upload, then commit, then publish).
package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// ErrCorrupt means that a slice is not what its reference says.
var ErrCorrupt = errors.New("upload: slice does not hold what it should")

// attempts at one upload, each under a key of its own. What a failed one
// leaves behind is unreferenced, and the sweep finds it by its writer's name.
const attempts = 3

// Options say where to, and as whom.
type Options struct {
	Store  objstore.Store
	Cache  *objcache.Cache
	Origin bundle.Origin // the session; Seq unused
	Level  zstd.EncoderLevel
	// Count numbers this session's uploads, for unique keys.
	Count *atomic.Int64
	// Pace is called before each chunk of n bytes is read, and may wait; nil: never.
	Pace func(ctx context.Context, n int64) error
	// PutTimeout bounds one attempt; 0: five minutes.
	PutTimeout time.Duration
}

// Ref is a run of whole batches of one partition in an object.
type Ref struct {
	Key          string
	Pos, Len     int64
	Base, Last   kafka.Offset
	MaxTimestamp int64
}

// Source is what becomes a segment: the slices from Base up to End, and the
// partition's state there.
type Source struct {
	TP        kafka.TopicPartition
	Base, End kafka.Offset
	State     bundle.State // with the aborted transactions that end in the slices
	Slices    []Ref
}

// Segment writes a sealed segment and returns its entry, to be committed.
func Segment(ctx context.Context, o Options, src Source) (catalog.Segment, error) {
	var info bundle.SegmentInfo
	key, err := o.put(ctx, func(n int64) string {
		return fmt.Sprintf("seg/%s/%010d/%020d-%010d-%020d-%020d", src.TP.Topic.Hex(), src.TP.Partition, src.Base, o.Origin.Broker, o.Origin.Epoch, n)
	}, func(ctx context.Context, origin bundle.Origin, w io.Writer) (err error) {
		info, err = o.writeSegment(ctx, origin, w, src)
		return err
	})
	if err != nil {
		return catalog.Segment{}, fmt.Errorf("upload segment of %s from %d: %w", src.TP, src.Base, err)
	}
	return catalog.Segment{
		TP: src.TP, Base: src.Base, End: src.End, Key: key, Size: info.Size, RawSize: info.RawSize, Records: info.Records,
		FirstTimestamp: info.FirstTimestamp, MaxTimestamp: info.MaxTimestamp, FooterLen: info.FooterLen,
		CreatedMs: time.Now().UnixMilli(), Epochs: epochsWithin(src.State.Epochs, src.Base, src.End),
	}, nil
}

func epochsWithin(all []bundle.EpochStart, base, end kafka.Offset) []catalog.EpochStart {
	var within []catalog.EpochStart
	for i, e := range all {
		if e.Start < end && (i+1 == len(all) || all[i+1].Start > base) {
			within = append(within, catalog.EpochStart{Epoch: e.Epoch, Start: e.Start})
		}
	}
	return within
}

func (o *Options) writeSegment(ctx context.Context, origin bundle.Origin, w io.Writer, src Source) (bundle.SegmentInfo, error) {
	sw, err := bundle.NewSegmentWriter(w, origin, o.Level)
	if err != nil {
		return bundle.SegmentInfo{}, err
	}
	arena := objcache.NewArena()
	defer arena.Release()
	next := src.Base
	for _, ref := range src.Slices {
		if ref.Base != next {
			return bundle.SegmentInfo{}, fmt.Errorf("%w: offset %d where %d should be", ErrCorrupt, ref.Base, next)
		}
		if _, _, err := o.slice(ctx, ref, arena, sw.Batch); err != nil {
			return bundle.SegmentInfo{}, err
		}
		arena.Release()
		next = ref.Last + 1
	}
	if next != src.End {
		return bundle.SegmentInfo{}, fmt.Errorf("%w: it ends at %d where %d should be", ErrCorrupt, next, src.End)
	}
	return sw.Close(src.State, src.State.Aborted)
}

// slice reads a slice, checks each of its batches and gives them to fn. It
// returns the buffers that they lie in, valid until arena is released, and
// what a footer says of them.
func (o *Options) slice(ctx context.Context, ref Ref, arena *objcache.Arena, fn func(b []byte, m bundle.Batch) error) ([][]byte, []bundle.Batch, error) {
	if o.Pace != nil {
		if err := o.Pace(ctx, ref.Len); err != nil {
			return nil, nil, err
		}
	}
	bufs, err := o.Cache.ReadOnce(ctx, ref.Key, ref.Pos, ref.Len, arena)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s at %d: %w", ref.Key, ref.Pos, err)
	}
	var metas []bundle.Batch
	next := ref.Base
	err = eachBatch(bufs, func(b []byte) error {
		m, err := bundle.Describe(b)
		if err != nil {
			return err
		}
		if m.BaseOffset != next {
			return fmt.Errorf("%w: %s has offset %d where %d should be", ErrCorrupt, ref.Key, m.BaseOffset, next)
		}
		if err := record.VerifyCRC(b); err != nil {
			return fmt.Errorf("%w: %s at offset %d: %w", ErrCorrupt, ref.Key, m.BaseOffset, err)
		}
		next = m.LastOffset() + 1
		metas = append(metas, m)
		return fn(b, m)
	})
	if err == nil && next != ref.Last+1 {
		err = fmt.Errorf("%w: %s ends at offset %d where %d should be", ErrCorrupt, ref.Key, next, ref.Last+1)
	}
	return bufs, metas, err
}

// eachBatch calls fn with each whole batch that lies in bufs. One that
// straddles two of them is joined first.
func eachBatch(bufs [][]byte, fn func(b []byte) error) error {
	var rest []byte
	for i, buf := range bufs {
		if len(rest) > 0 {
			buf = append(append(make([]byte, 0, len(rest)+len(buf)), rest...), buf...)
		}
		var err error
		if rest, err = whole(buf, fn); err != nil {
			return err
		}
		if i == len(bufs)-1 && len(rest) > 0 {
			return fmt.Errorf("%w: %d bytes behind the last batch", ErrCorrupt, len(rest))
		}
	}
	return nil
}

func whole(buf []byte, fn func(b []byte) error) (rest []byte, err error) {
	for len(buf) >= record.HeaderLen {
		h, err := record.ParseHeader(buf)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if h.Size() > len(buf) {
			break
		}
		if err := fn(buf[:h.Size()]); err != nil {
			return nil, err
		}
		buf = buf[h.Size():]
	}
	return buf, nil
}

// put writes an object under a new key at each attempt.
func (o *Options) put(ctx context.Context, key func(n int64) string, write func(context.Context, bundle.Origin, io.Writer) error) (string, error) {
	timeout := o.PutTimeout
	if timeout == 0 {
		timeout = 5 * time.Minute
	}
	var errs []error
	for range attempts {
		n := o.Count.Add(1)
		origin := o.Origin
		origin.Seq = n
		attempt, cancel := context.WithTimeout(ctx, timeout)
		err := o.Store.Put(attempt, key(n), body(func(w io.Writer) error { return write(attempt, origin, w) }))
		cancel()
		if err == nil {
			return key(n), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || errors.Is(err, ErrCorrupt) {
			break
		}
	}
	return "", errors.Join(errs...)
}

// body makes a repeatable object body of a function that writes it.
type body func(w io.Writer) error

// WriteTo writes the body.
func (b body) WriteTo(w io.Writer) (int64, error) {
	c := &counter{w: w}
	err := b(c)
	return c.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
