package partition

import (
	"context"

	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/objcache"
)

// A walk reads steps of more and more bytes: most find what they look for early.
const (
	firstStep = 256 << 10
	maxStep   = 4 << 20
)

// walk calls fn with the header of each batch of a slice and its position in
// it, until fn returns false.
func (l *Log) walk(ctx context.Context, s Ref, fn func(h record.Header, pos int64) bool) error {
	a := objcache.NewArena()
	defer a.Release()
	step := int64(firstStep)
	for pos := int64(0); pos < s.Len; step = min(2*step, maxStep) {
		bufs, err := l.o.Cache.Read(ctx, s.Key, s.Pos+pos, min(step, s.Len-pos), a)
		if err != nil {
			return err
		}
		next, more, err := walkRun(bufs, pos, fn)
		if err != nil || !more {
			return err
		}
		if next == pos {
			return record.ErrTruncated
		}
		pos = next
		a.Release()
	}
	return nil
}

// walkRun walks the batches whose headers lie in bufs, the first of which is
// at pos. It returns where the next batch begins, perhaps behind the bytes.
func walkRun(bufs [][]byte, pos int64, fn func(h record.Header, pos int64) bool) (next int64, more bool, err error) {
	r := newRun(bufs)
	for {
		h, ok, err := r.head()
		switch {
		case err != nil:
			return pos, false, err
		case !ok:
			return pos, true, nil
		case !fn(h, pos):
			return pos, false, nil
		}
		r.skip(int64(h.Size()))
		pos += int64(h.Size())
	}
}
