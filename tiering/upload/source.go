package upload

import (
	"context"
	"fmt"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
)

// batches reads a slice in chunks and gives each of its batches, checked, to fn, which
// does not keep it.
//
//	slice  [ batch ][ batch ][  bat|ch  ][ batch ] …
//	chunk  └──────────┘ pos ▲      │ read again from here, at least the whole batch
func (o *Options) batches(ctx context.Context, ref Ref, fn func(b []byte, m bundle.Batch) error) error {
	c := checker{ref: ref, next: ref.Base}
	arena := objcache.NewArena()
	defer arena.Release()
	want := int64(chunkBytes)
	for pos := int64(0); pos < ref.Len; {
		n := min(want, ref.Len-pos)
		bufs, err := o.read(ctx, ref, pos, n, arena)
		if err != nil {
			return err
		}
		used, need, err := c.walk(bufs, fn)
		if err != nil {
			return err
		}
		arena.Release()
		switch {
		case used > 0:
			pos, want = pos+used, chunkBytes
		case need > ref.Len-pos || need <= n:
			return wrong("%s: %d bytes behind offset %d, of a batch of %d", ref.Key, ref.Len-pos, c.next-1, need)
		default:
			want = need // a batch that is longer than a chunk
		}
	}
	return c.end()
}

// slice reads a whole slice, checks it and returns the buffers that it lies
// in, valid until arena is released, and what a footer says of its batches.
func (o *Options) slice(ctx context.Context, ref Ref, arena *objcache.Arena) ([][]byte, []bundle.Batch, error) {
	c := checker{ref: ref, next: ref.Base}
	bufs, err := o.read(ctx, ref, 0, ref.Len, arena)
	if err != nil {
		return nil, nil, err
	}
	var metas []bundle.Batch
	used, _, err := c.walk(bufs, func(_ []byte, m bundle.Batch) error {
		metas = append(metas, m)
		return nil
	})
	if err == nil && used != ref.Len {
		err = wrong("%s: %d bytes behind the last whole batch", ref.Key, ref.Len-used)
	}
	if err == nil {
		err = c.end()
	}
	return bufs, metas, err
}

// read reads n bytes from pos of a slice.
func (o *Options) read(ctx context.Context, ref Ref, pos, n int64, arena *objcache.Arena) ([][]byte, error) {
	if o.Pace != nil {
		if err := o.Pace(ctx, n); err != nil {
			return nil, fmt.Errorf("wait for the pace: %w", err)
		}
	}
	var all [][]byte
	for n > 0 {
		part := min(n, objcache.MaxRead)
		bufs, err := o.Cache.ReadOnce(ctx, ref.Key, ref.Pos+pos, part, arena)
		if err != nil {
			return nil, fmt.Errorf("read %d bytes at %d of %s: %w", part, ref.Pos+pos, ref.Key, err)
		}
		all = append(all, bufs...)
		pos, n = pos+part, n-part
	}
	return all, nil
}

// checker checks that the batches of a slice follow each other from its base
// to its last offset, and their checksums.
type checker struct {
	ref  Ref
	next kafka.Offset
}

// walk gives the whole batches at the beginning of bufs to fn. It returns how
// many bytes they take, and the length of the batch that is cut off behind
// them, 0 where that is not known. Buffers usually begin with a batch; one that goes on
// in the next buffer is joined.
func (c *checker) walk(bufs [][]byte, fn func(b []byte, m bundle.Batch) error) (used, need int64, err error) {
	var rest []byte
	for _, buf := range bufs {
		if len(rest) > 0 {
			buf = slices.Concat(rest, buf)
		}
		var n int
		if n, need, err = c.whole(buf, fn); err != nil {
			return used, 0, err
		}
		used += int64(n)
		rest = buf[n:]
	}
	return used, need, nil
}

// whole is walk for one buffer.
func (c *checker) whole(buf []byte, fn func(b []byte, m bundle.Batch) error) (used int, need int64, err error) {
	for len(buf)-used >= record.HeaderLen {
		h, err := record.ParseHeader(buf[used:])
		if err != nil {
			return used, 0, wrong("%s: batch behind offset %d: %v", c.ref.Key, c.next-1, err)
		}
		if h.Size() > len(buf)-used {
			return used, int64(h.Size()), nil
		}
		b := buf[used : used+h.Size() : used+h.Size()]
		m, err := c.check(b)
		if err != nil {
			return used, 0, err
		}
		if err := fn(b, m); err != nil {
			return used, 0, err
		}
		used += len(b)
	}
	return used, 0, nil
}

func (c *checker) check(b []byte) (bundle.Batch, error) {
	m, err := bundle.Describe(b)
	if err == nil {
		err = record.VerifyCRC(b)
	}
	if err != nil {
		return m, wrong("%s: batch behind offset %d: %v", c.ref.Key, c.next-1, err)
	}
	if m.BaseOffset != c.next || m.LastOffset() > c.ref.Last {
		return m, wrong("%s: offsets %d to %d where %d to %d should be", c.ref.Key, m.BaseOffset, m.LastOffset(), c.next, c.ref.Last)
	}
	c.next = m.LastOffset() + 1
	return m, nil
}

// end checks that the slice ended where it should.
func (c *checker) end() error {
	if c.next != c.ref.Last+1 {
		return wrong("%s ends before offset %d, not behind %d", c.ref.Key, c.next, c.ref.Last)
	}
	return nil
}
