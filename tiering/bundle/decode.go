package bundle

import (
	"encoding/binary"
	"math"

	"github.com/varvelog/varve/internal/kafka"
)

// cursor reads a footer. The first error sticks; after it every read returns
// zero, so callers check once, at the end or before they allocate.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = corrupt(format, args...)
	}
	c.b = nil
}

func (c *cursor) bytes(n int) []byte {
	if len(c.b) < n {
		c.fail("footer ends early")
		return make([]byte, n) // n is a small constant of the callers
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) byte() byte     { return c.bytes(1)[0] }
func (c *cursor) uint32() uint32 { return binary.BigEndian.Uint32(c.bytes(4)) }

// z reads a zigzag varint.
func (c *cursor) z() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail("varint")
		return 0
	}
	c.b = c.b[n:]
	return v
}

// u reads a uvarint of at most limit.
func (c *cursor) u(limit int64) int64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > uint64(limit) {
		c.fail("uvarint above %d", limit)
		return 0
	}
	c.b = c.b[n:]
	return int64(v)
}

// within reads a zigzag difference to base; the result must lie in [lo, hi].
func (c *cursor) within(base, lo, hi int64) int64 {
	d := c.z()
	v := base + d
	if (d > 0) != (v > base) && d != 0 || v < lo || v > hi {
		c.fail("value outside %d to %d", lo, hi)
		return lo
	}
	return v
}

func (c *cursor) i32(base int64) int32 { return int32(c.within(base, math.MinInt32, math.MaxInt32)) }
func (c *cursor) i16(base int64) int16 { return int16(c.within(base, math.MinInt16, math.MaxInt16)) }

// count reads the length of a list whose entries take at least min bytes
// each, so that nothing is allocated that the footer is too short to hold.
func (c *cursor) count(min int) int { return int(c.u(int64(len(c.b) / min))) }

const (
	minSliceLen    = 1 + 16 + 1 + 1 + 1 + 4 + 1
	minBatchLen    = 4
	minFrameLen    = 7
	minStateLen    = 1 + 16 + 1 + 1 + 1 + 1 + 3
	minEpochLen    = 2
	minProducerLen = 6
	minPBatchLen   = 4
	minAbortedLen  = 4
)

func (c *cursor) tp() (kafka.Slot, kafka.TopicPartition) {
	slot := kafka.Slot(c.u(math.MaxInt32))
	var tp kafka.TopicPartition
	copy(tp.Topic[:], c.bytes(len(tp.Topic)))
	tp.Partition = int32(c.u(math.MaxInt32))
	return slot, tp
}

// slices reads slices, which lie in [HeaderLen, end) of the object.
func (c *cursor) slices(end int64) []Slice {
	n := c.count(minSliceLen)
	if n == 0 {
		return nil
	}
	out := make([]Slice, 0, n)
	pos := int64(HeaderLen)
	for range n {
		s := Slice{}
		s.Slot, s.TP = c.tp()
		s.Pos = c.within(pos, HeaderLen, end)
		s.Len = c.u(end - s.Pos)
		s.Sum = c.uint32()
		s.Batches = c.batches(s.Pos, s.Len)
		if c.err != nil {
			return nil
		}
		pos = s.Pos + s.Len
		out = append(out, s)
	}
	return out
}

// batches reads the batches of a slice, which fill it exactly (or are not
// listed at all, in a segment).
func (c *cursor) batches(pos, length int64) []Batch {
	n := c.count(minBatchLen)
	if n == 0 {
		return nil
	}
	out := make([]Batch, n)
	var run batchRun
	end := pos + length
	for i := range out {
		m := &out[i]
		run.read(c, m, end-pos)
		if c.err != nil {
			return nil
		}
		m.Pos = pos
		pos += int64(m.Len)
	}
	if pos != end {
		c.fail("batches end at %d, their slice at %d", pos, end)
	}
	return out
}

func (r *batchRun) read(c *cursor, m *Batch, room int64) {
	flags := c.byte()
	if flags&^flagsKnown != 0 {
		c.fail("batch flags %#x", flags)
	}
	m.Len = int32(c.u(min(room, math.MaxInt32)))
	m.LastOffsetDelta = int32(c.u(math.MaxInt32))
	m.MaxTimestamp = r.time + c.z()
	m.LeaderEpoch, m.BaseOffset = r.epoch, r.offset
	m.ProducerID, m.ProducerEpoch, m.BaseSequence = -1, -1, -1
	m.ControlType, m.CoordEpoch = -1, -1
	if flags&flagAttributes != 0 {
		m.Attributes = int16(binary.BigEndian.Uint16(c.bytes(2)))
	}
	if flags&flagEpoch != 0 {
		m.LeaderEpoch = kafka.LeaderEpoch(c.i32(int64(r.epoch)))
	}
	if flags&flagOffset != 0 {
		m.BaseOffset = kafka.Offset(c.within(int64(r.offset), int64(r.offset), math.MaxInt64))
	}
	if flags&flagProducer != 0 {
		m.ProducerID = c.within(r.producer, 0, math.MaxInt64)
		m.ProducerEpoch = c.i16(int64(r.pepoch))
		m.BaseSequence = c.i32(int64(r.sequence))
	}
	if flags&flagControl != 0 {
		m.ControlType, m.CoordEpoch = c.i16(0), c.i32(0)
	}
	if m.Len < minBatch || m.BaseOffset > math.MaxInt64-kafka.Offset(m.LastOffsetDelta)-1 {
		c.fail("batch of %d bytes at offset %d", m.Len, m.BaseOffset)
	}
	r.next(m)
}

func (c *cursor) segment(s Slice) *SegmentFooter {
	g := &SegmentFooter{}
	g.Base = kafka.Offset(c.u(math.MaxInt64))
	g.End = g.Base + kafka.Offset(c.u(math.MaxInt64-int64(g.Base)))
	g.RawSize = c.u(math.MaxInt64)
	g.Records = c.u(math.MaxInt64)
	g.FirstTimestamp, g.MaxTimestamp = c.z(), c.z()
	g.Frames = c.frames(g, s)
	c.state(&g.State)
	g.Aborted = g.State.Aborted
	return g
}

// frames reads the frames of a segment, which fill its slice and its
// uncompressed bytes exactly, in order of offsets.
func (c *cursor) frames(g *SegmentFooter, s Slice) []Frame {
	n := c.count(minFrameLen)
	out := make([]Frame, n)
	base, pos, room, raw, time := g.Base, s.Pos, s.Len, int64(0), int64(0)
	for i := range out {
		f := &out[i]
		f.BaseOffset = base + kafka.Offset(c.u(int64(g.End-base)))
		v := c.u(MaxFrame<<1 | 1)
		f.Stored, f.RawLen, f.Len = v&1 != 0, int32(v>>1), int32(v>>1)
		if !f.Stored {
			f.Len = int32(c.u(min(room, math.MaxInt32)))
		}
		f.MaxTime = time + c.z()
		f.CRC = c.uint32()
		f.Pos, f.RawPos = pos, raw
		if f.RawLen < minBatch || f.Len < 1 || int64(f.Len) > room || int64(f.RawLen) > g.RawSize-raw {
			c.fail("frame %d of %d bytes, %d uncompressed", i, f.Len, f.RawLen)
		}
		if c.err != nil {
			return nil
		}
		base, time = f.BaseOffset, f.MaxTime
		pos, room, raw = pos+int64(f.Len), room-int64(f.Len), raw+int64(f.RawLen)
	}
	if room != 0 || raw != g.RawSize {
		c.fail("frames do not fill their segment")
	}
	return out
}

func (c *cursor) states() []State {
	n := c.count(minStateLen)
	if n == 0 {
		return nil
	}
	out := make([]State, n)
	for i := range out {
		if c.state(&out[i]); c.err != nil {
			return nil
		}
	}
	return out
}

func (c *cursor) state(st *State) {
	st.Slot, st.TP = c.tp()
	st.NextOffset = kafka.Offset(c.u(math.MaxInt64))
	st.SealedEnd, st.LastStable = kafka.Offset(c.z()), kafka.Offset(c.z())
	if n := c.count(minEpochLen); n > 0 {
		st.Epochs = make([]EpochStart, n)
	}
	var last EpochStart
	for i := range st.Epochs {
		last.Epoch += kafka.LeaderEpoch(c.u(math.MaxInt32 - int64(last.Epoch)))
		last.Start += kafka.Offset(c.u(math.MaxInt64 - int64(last.Start)))
		st.Epochs[i] = last
	}
	if n := c.count(minProducerLen); n > 0 {
		st.Producers = make([]Producer, n)
	}
	id := int64(0)
	for i := range st.Producers {
		if c.producer(&st.Producers[i], id); c.err != nil {
			return
		}
		id = st.Producers[i].ID
	}
	if n := c.count(minAbortedLen); n > 0 {
		st.Aborted = make([]AbortedTxn, n)
	}
	for i := range st.Aborted {
		a := &st.Aborted[i]
		a.ProducerID, a.FirstOffset = c.z(), kafka.Offset(c.z())
		a.LastOffset = a.FirstOffset + kafka.Offset(c.z())
		a.LastStableOffset = a.FirstOffset + kafka.Offset(c.z())
	}
}

func (c *cursor) producer(p *Producer, lastID int64) {
	p.ID = lastID + c.z()
	p.Epoch = c.i16(0)
	p.LastTimestamp = c.z()
	p.CoordEpoch = c.i32(0)
	p.TxnFirstOffset = kafka.Offset(c.z())
	n := int(c.byte())
	if n > maxPerProd || n*minPBatchLen > len(c.b) {
		c.fail("%d batches of a producer", n)
		return
	}
	if n > 0 {
		p.Batches = make([]ProducerBatch, n)
	}
	var last ProducerBatch
	for i := range p.Batches {
		b := &p.Batches[i]
		b.FirstSeq, b.LastSeq = c.i32(0), c.i32(0)
		b.BaseOffset = last.BaseOffset + kafka.Offset(c.z())
		b.Timestamp = last.Timestamp + c.z()
		last = *b
	}
}
