package bundle

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
)

// Info tells what a writer has written.
type Info struct {
	Size      int64  // bytes of the object
	FooterLen int64  // bytes of footer and trailer: the tail that a reader needs
	Sum       uint32 // the bundle's checksum
}

// out counts what goes to w. The first error sticks.
type out struct {
	w   io.Writer
	pos int64
	err error
}

func (o *out) write(b []byte) {
	if o.err != nil {
		return
	}
	n, err := o.w.Write(b)
	o.pos += int64(n)
	if err != nil {
		o.err = fmt.Errorf("write bundle: %w", err)
	}
}

// finish writes footer and trailer, if a reader will accept them: what a
// caller got wrong must not be found only when the object is needed.
func (o *out) finish(footer []byte, k Kind) (Info, error) {
	n := len(footer)
	b, sum := appendTrailer(footer, k, o.pos)
	t, err := parseTrailer(b, o.pos+int64(len(b)))
	if err == nil {
		_, err = parseFooter(t, b[:n], o.pos+int64(len(b)))
	}
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("write bundle: footer of %d bytes: %w", n, err)
	}
	o.write(b)
	return Info{Size: o.pos, FooterLen: int64(len(b)), Sum: sum}, o.err
}

// CheckpointWriter streams a checkpoint: slices as they come, and a footer
// grouped by slot. It is used by one goroutine.
type CheckpointWriter struct {
	out       out
	origin    Origin
	maxFooter int
	slices    []Slice
	states    []State
	listed    int    // bytes that the slices take in the footer, about
	scratch   []byte // one slice, as in the footer
}

// NewCheckpointWriter begins a checkpoint on w, whose footer has at most maxFooter bytes, MaxFooter or
// less. Errors of w are returned by the calls that follow.
func NewCheckpointWriter(w io.Writer, o Origin, maxFooter int) *CheckpointWriter {
	c := &CheckpointWriter{out: out{w: w}, origin: o, maxFooter: maxFooter}
	c.out.write(appendHeader(nil, KindCheckpoint, o))
	return c
}

// Slice writes one slice, whose bytes lie in data in pieces of any size, and
// returns it with its place in this object. s names slot, partition and
// batches (with Len); its batches are copied. It refuses data that is not as
// long as the batches, or where another base offset stands than they say. ErrTooLarge: there are too many batches.
func (c *CheckpointWriter) Slice(s Slice, data [][]byte) (Slice, error) {
	s.Batches = slices.Clone(s.Batches)
	s.Pos, s.Len, s.Sum = c.out.pos, 0, 0
	p := pieces{rest: data}
	var head [batchHead]byte
	for i := range s.Batches {
		m := &s.Batches[i]
		if m.Len < minBatch || !p.read(head[:]) || !p.skip(int(m.Len)-batchHead) {
			return Slice{}, fmt.Errorf("write slice of %s: data ends in batch at offset %d", s.TP, m.BaseOffset)
		}
		if at := headOffset(head[:]); at != m.BaseOffset {
			return Slice{}, fmt.Errorf("write slice of %s: batch at offset %d where %d should be", s.TP, at, m.BaseOffset)
		}
		m.Pos = s.Pos + s.Len
		s.Len += int64(m.Len)
		s.Sum = headSum(s.Sum, head[:])
	}
	if p.len() != 0 || s.Len == 0 {
		return Slice{}, fmt.Errorf("write slice of %s: %d bytes behind %d batches", s.TP, p.len(), len(s.Batches))
	}
	one := [...]Slice{s}
	c.scratch = appendSlices(c.scratch[:0], one[:])
	if c.listed += len(c.scratch); c.listed > c.maxFooter {
		return Slice{}, fmt.Errorf("write slice of %s: %w: the footer would have %d bytes and more", s.TP, ErrTooLarge, c.listed)
	}
	for _, b := range data {
		c.out.write(b)
	}
	c.slices = append(c.slices, s)
	return s, c.out.err
}

// State adds a partition's state to the footer.
func (c *CheckpointWriter) State(s State) { c.states = append(c.states, s) }

// Close writes footer and trailer. ErrTooLarge: the footer is too large.
func (c *CheckpointWriter) Close() (Info, error) {
	slices.SortStableFunc(c.slices, func(a, b Slice) int { return compareTP(a.Slot, a.TP, b.Slot, b.TP) })
	slices.SortStableFunc(c.states, func(a, b State) int { return compareTP(a.Slot, a.TP, b.Slot, b.TP) })
	b := appendHeader(nil, KindCheckpoint, c.origin)
	b = appendStates(appendSlices(b, c.slices), c.states)
	if n := len(b) + TrailerLen; n > c.maxFooter {
		return Info{}, fmt.Errorf("write checkpoint: %w: the footer has %d bytes", ErrTooLarge, n)
	}
	return c.out.finish(b, KindCheckpoint)
}

func compareTP(s1 kafka.Slot, a kafka.TopicPartition, s2 kafka.Slot, b kafka.TopicPartition) int {
	return cmp.Or(cmp.Compare(s1, s2), a.Compare(b))
}

// pieces reads through bytes that lie in several buffers.
type pieces struct {
	rest [][]byte
	off  int // in rest[0]
}

func (p *pieces) read(dst []byte) bool { return p.advance(len(dst), dst) }
func (p *pieces) skip(n int) bool      { return p.advance(n, nil) }

// len returns how many bytes are left.
func (p *pieces) len() int {
	n := -p.off
	for _, b := range p.rest {
		n += len(b)
	}
	return n
}

// advance moves over n bytes, into dst if that is not nil. It returns false
// if there are fewer.
func (p *pieces) advance(n int, dst []byte) bool {
	for n > 0 {
		if len(p.rest) == 0 {
			return false
		}
		b := p.rest[0][p.off:]
		k := min(n, len(b))
		if dst != nil {
			dst = dst[copy(dst, b[:k]):]
		}
		n -= k
		if p.off += k; k == len(b) {
			p.rest, p.off = p.rest[1:], 0
		}
	}
	return true
}
