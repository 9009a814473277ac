package partition

import (
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

// run walks the batches of a range of bytes that lies in pieces; batches may
// lie across pieces.
type run struct {
	bufs [][]byte
	i    int   // the piece that holds the position
	off  int   // of the position in it
	pos  int64 // from the first byte of all
	size int64
}

func newRun(bufs [][]byte) run {
	r := run{bufs: bufs}
	for _, b := range bufs {
		r.size += int64(len(b))
	}
	return r
}

// head reads the header of the batch at the position. ok is false at the
// end, and when not all of the header is there.
func (r *run) head() (h record.Header, ok bool, err error) {
	if r.size-r.pos < record.HeaderLen {
		return record.Header{}, false, nil
	}
	r.settle()
	b := r.bufs[r.i][r.off:]
	if len(b) < record.HeaderLen {
		var joined [record.HeaderLen]byte
		n := copy(joined[:], b)
		for _, next := range r.bufs[r.i+1:] {
			if n += copy(joined[n:], next); n == len(joined) {
				break
			}
		}
		h, err = record.ParseHeader(joined[:])
		return h, err == nil, err
	}
	h, err = record.ParseHeader(b)
	return h, err == nil, err
}

// skip moves the position by n bytes, at most to the end.
func (r *run) skip(n int64) {
	n = min(n, r.size-r.pos)
	r.pos += n
	for n > 0 {
		r.settle()
		step := min(n, int64(len(r.bufs[r.i])-r.off))
		r.off += int(step)
		n -= step
	}
}

// settle moves from the end of a piece to the next that has bytes.
func (r *run) settle() {
	for r.off == len(r.bufs[r.i]) && r.i+1 < len(r.bufs) {
		r.i, r.off = r.i+1, 0
	}
}

// sub returns the bytes [lo, hi) of the pieces, by reference.
func sub(bufs [][]byte, lo, hi int64) [][]byte {
	out := make([][]byte, 0, len(bufs))
	var pos int64
	for _, b := range bufs {
		end := pos + int64(len(b))
		if from, to := max(lo, pos), min(hi, end); from < to {
			out = append(out, b[from-pos:to-pos])
		}
		pos = end
	}
	return out
}

// join returns the bytes [lo, hi) in one piece, copied only if they lie in several.
func join(bufs [][]byte, lo, hi int64) []byte {
	parts := sub(bufs, lo, hi)
	if len(parts) == 1 {
		return parts[0]
	}
	b := make([]byte, 0, hi-lo)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// bounds is what a reader wants of a run of batches.
type bounds struct {
	from  kafka.Offset // the batch that holds it comes first
	limit kafka.Offset // no batch that begins there or behind
	max   int64        // bytes
	one   bool         // the first batch comes even if it is longer (KIP-74)
}

// cut finds the batches within the bounds: bytes [lo, hi), and the offset that
// follows. tail is a batch boundary at or before which nothing has to be cut
// at the end, from which the search for the end may start (0: none known).
//
//	bytes  [ batch ][ batch ][ batch ][ batch ][ batch ]
//	                lo ▲ holds from    tail ▲     ▲ hi: max or limit
//
// What lies behind from is skipped, so next is from itself when nothing fits.
func (r *run) cut(w bounds, tail mark) (lo, hi int64, next kafka.Offset, err error) {
	next = w.from
	for {
		h, ok, err := r.head()
		if err != nil || !ok {
			return r.pos, r.pos, next, err
		}
		if h.LastOffset() >= w.from {
			break
		}
		r.skip(int64(h.Size()))
	}
	lo, hi = r.pos, r.pos
	if tail.pos > lo {
		r.skip(tail.pos - r.pos)
		hi, next = r.pos, tail.base
	}
	for {
		h, ok, err := r.head()
		switch {
		case err != nil:
			return lo, lo, next, err
		case ok && hi == lo && r.pos+int64(h.Size()) > r.size:
			return lo, lo, next, record.ErrTruncated
		case !ok, h.BaseOffset >= w.limit, r.pos+int64(h.Size()) > r.size:
			return lo, hi, next, nil
		case r.pos+int64(h.Size())-lo > w.max && !(w.one && hi == lo):
			return lo, hi, next, nil
		}
		r.skip(int64(h.Size()))
		hi, next = r.pos, h.LastOffset()+1
	}
}
