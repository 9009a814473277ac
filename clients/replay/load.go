package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	attempts   = 4 // at a read that fails
	firstPause = 50 * time.Millisecond
	// plainFactor is how many times the size of a chunk its decompressed
	// batches may take. Beyond that they are decompressed one by one when
	// they are delivered.
	plainFactor = 2
	// weightFactor is how much memory a chunk takes at most, by its size: as it
	// is in the object, its batches, and those decompressed.
	weightFactor = 2 + plainFactor
)

// errGone means that an object is not there any more.
var errGone = errors.New("object is missing")

// block is a loaded chunk. Its buffers are used again for other chunks.
type block struct {
	p        *partition
	from, to kafka.Offset
	weight   int64 // bytes that it holds of memory
	memory   *semaphore.Weighted

	packed  []byte // as it lies in the object
	raw     []byte // whole batches
	plain   []byte // records of those that were compressed by their producer
	batches []batch
}

// batch is a data batch of a block.
type batch struct {
	head record.Header
	body []byte // its records, decompressed; nil: not yet
	raw  []byte // the whole batch
}

func (b *block) reset() { b.raw, b.plain, b.batches = b.raw[:0], b.plain[:0], b.batches[:0] }

// freeBlocks are blocks to be used again: as many as were in use at a time.
type freeBlocks struct {
	mu  sync.Mutex
	all []*block
}

func (f *freeBlocks) take() *block {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.all)
	if n == 0 {
		return new(block)
	}
	b := f.all[n-1]
	f.all = f.all[:n-1]
	return b
}

func (f *freeBlocks) give(b *block) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, b)
}

// drop lets the memory go.
func (f *freeBlocks) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = nil
}

// load loads a chunk. What is not where the plan says is looked up anew.
func (r *Replay) load(ctx context.Context, p *partition, c chunk) (*block, error) {
	b := r.free.take()
	b.p, b.from, b.to = p, c.from, c.to
	b.reset()
	err := r.fill(ctx, b, c)
	for try := 0; errors.Is(err, errGone); try++ {
		if try == resolves {
			return nil, fmt.Errorf("%w: offsets %d to %d: %w", ErrLost, c.from, c.to-1, err)
		}
		r.src.cold.Forget(p.tp)
		if c.segment == "" {
			if _, err := r.tails.renew(ctx, c.seen); err != nil {
				return nil, err
			}
		}
		b.reset()
		again := planner{r: r, p: p, target: c.bytes, emit: func(c chunk) error { return r.fill(ctx, b, c) }}
		err = again.plan(ctx, c.from, c.to)
	}
	if err != nil {
		return nil, fmt.Errorf("read offsets %d to %d: %w", c.from, c.to-1, err)
	}
	return b, nil
}

// fill appends a chunk's batches to a block.
func (r *Replay) fill(ctx context.Context, b *block, c chunk) error {
	begin := len(b.raw)
	b.raw = room(b.raw, int(c.bytes))
	var err error
	if c.segment != "" {
		err = r.readFrames(ctx, b, c)
	} else {
		for _, ref := range c.refs {
			if b.raw, err = r.readRef(ctx, b.raw, ref); err != nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	return r.index(b, b.raw[begin:], c)
}

// room makes room for n bytes more. Chunks are of similar sizes, so a buffer
// that is made anew has some to spare for the next ones.
func room(b []byte, n int) []byte {
	if len(b) == 0 && cap(b) < n {
		return make([]byte, 0, (n+minTarget-1)/minTarget*minTarget)
	}
	return slices.Grow(b, n)
}

// readFrames reads the frames of a chunk in one request, and decompresses them.
func (r *Replay) readFrames(ctx context.Context, b *block, c chunk) error {
	first, last := c.frames[0], c.frames[len(c.frames)-1]
	n := int(last.Pos + int64(last.Len) - first.Pos)
	b.packed = room(b.packed[:0], n)[:n]
	begin := len(b.raw)
	return retry(ctx, func() error {
		b.raw = b.raw[:begin]
		if err := r.readAt(ctx, c.segment, b.packed, first.Pos); err != nil {
			return err
		}
		for _, f := range c.frames {
			var err error
			at := f.Pos - first.Pos
			if b.raw, err = r.src.dec.Decode(b.raw, f, b.packed[at:at+int64(f.Len)]); err != nil {
				return fmt.Errorf("read segment %s: %w", c.segment, err)
			}
		}
		return nil
	})
}

// readRef appends a slice of the tail to dst. Each batch is checked: nothing
// else covers them.
func (r *Replay) readRef(ctx context.Context, dst []byte, ref bundle.Ref) ([]byte, error) {
	n := len(dst)
	dst = slices.Grow(dst, int(ref.Len))[:n+int(ref.Len)]
	err := retry(ctx, func() error {
		if err := r.readAt(ctx, ref.Key, dst[n:], ref.Pos); err != nil {
			return err
		}
		if err := check(dst[n:], ref); err != nil {
			return fmt.Errorf("read %s at %d: %w: %w", ref.Key, ref.Pos, bundle.ErrCorrupt, err)
		}
		return nil
	})
	return dst, err
}

// check checks that a slice has the batches of its reference, whole.
func check(raw []byte, ref bundle.Ref) error {
	next := ref.Base
	for b, err := range record.Split(raw) {
		if err == nil {
			err = record.VerifyCRC(b)
		}
		if err != nil {
			return err
		}
		h, err := record.ParseHeader(b)
		if err != nil || h.BaseOffset != next {
			return fmt.Errorf("batch at offset %d where %d should be", h.BaseOffset, next)
		}
		next = h.LastOffset() + 1
	}
	if next != ref.Last+1 {
		return fmt.Errorf("it ends before offset %d, not behind %d", next, ref.Last)
	}
	return nil
}

// readAt reads all of p from an object.
func (r *Replay) readAt(ctx context.Context, key string, p []byte, off int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, size, err := r.src.store.ReadAt(ctx, key, p, off)
	r.count.read.Add(int64(n))
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return fmt.Errorf("%s: %w", key, errGone)
	case n == len(p) && (err == nil || errors.Is(err, io.EOF)):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s: %d of %d bytes at %d, it has %d: %w", key, n, len(p), off, size, err)
}

// retry repeats a read that failed, but for a missing object.
func retry(ctx context.Context, fn func() error) error {
	for try, pause := 1, firstPause; ; try, pause = try+1, 4*pause {
		err := fn()
		if err == nil || try == attempts || errors.Is(err, errGone) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// index finds the data batches of [from, to), and decompresses them as far as there is room.
func (r *Replay) index(b *block, raw []byte, c chunk) error {
	room := max(plainFactor*int(c.bytes)-len(b.plain), 0)
	for one, err := range record.Split(raw) {
		var h record.Header
		if err == nil {
			h, err = record.ParseHeader(one)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", bundle.ErrCorrupt, err)
		}
		if h.LastOffset() < c.from || h.Control() || aborted(c.aborted, h) {
			continue
		}
		if h.BaseOffset >= c.to {
			break
		}
		r.count.records.Add(int64(h.NumRecords))
		r.count.bytes.Add(int64(len(one)))
		next := batch{head: h, raw: one}
		if h.Codec() == record.None {
			next.body = one[record.HeaderLen:]
		} else if room > 0 {
			begin := len(b.plain)
			if plain, err := record.Decompress(b.plain, one, room); err == nil {
				b.plain, next.body = plain, plain[begin:]
				room -= len(next.body)
			} else if !errors.Is(err, record.ErrTooLarge) {
				return fmt.Errorf("batch at offset %d: %w", h.BaseOffset, err)
			}
		}
		b.batches = append(b.batches, next)
	}
	return nil
}

// aborted tells whether a batch is of an aborted transaction.
func aborted(txns []bundle.AbortedTxn, h record.Header) bool {
	if len(txns) == 0 || !h.Transactional() {
		return false
	}
	return slices.ContainsFunc(txns, func(a bundle.AbortedTxn) bool {
		return a.ProducerID == h.ProducerID && a.FirstOffset <= h.BaseOffset && h.BaseOffset <= a.LastOffset
	})
}
