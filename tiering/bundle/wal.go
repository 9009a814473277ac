package bundle

import (
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
)

// SliceData is what one partition contributes to a WAL object: Data[i] holds
// the bytes of Batches[i], whole and as they will be served. Pos and Len of
// the batches need not be set.
type SliceData struct {
	Slot    kafka.Slot
	TP      kafka.TopicPartition
	Batches []Batch
	Data    [][]byte
}

// WALBuffers builds a WAL object around the batches' own bytes, which it
// neither copies nor reads beyond each batch's head, and fills in Pos and Len
// of the batches in place. placed shares them. sum is the bundle's checksum,
// as Object.Sum shows it. A WAL object has at least one batch, and so is never
// of SealSize.
func WALBuffers(o Origin, slices []SliceData) (bufs [][]byte, placed []Slice, sum uint32) {
	n := 2
	for i := range slices {
		n += len(slices[i].Data)
	}
	bufs = append(make([][]byte, 0, n), appendHeader(make([]byte, 0, HeaderLen), KindWAL, o))
	placed = make([]Slice, len(slices))
	pos := int64(HeaderLen)
	for i := range slices {
		d, s := &slices[i], &placed[i]
		*s = Slice{Slot: d.Slot, TP: d.TP, Pos: pos, Batches: d.Batches}
		for j, b := range d.Data {
			d.Batches[j].Pos, d.Batches[j].Len = pos, int32(len(b))
			s.Sum = headSum(s.Sum, b)
			pos += int64(len(b))
		}
		s.Len = pos - s.Pos
		mustFit(s)
		bufs = append(bufs, d.Data...)
	}
	if n == 2 {
		panic("bundle: a WAL object of no batches")
	}
	b := make([]byte, 0, HeaderLen+48*len(slices)+24*n+TrailerLen)
	b = appendSlices(appendHeader(b, KindWAL, o), placed)
	b, sum = appendTrailer(b, KindWAL, pos)
	return append(bufs, b), placed, sum
}

// mustFit panics where a reader would refuse the slice: the invariants of
// whoever appended are broken, and an acknowledged WAL object must be readable.
func mustFit(s *Slice) {
	next := kafka.Offset(0)
	for i := range s.Batches {
		m := &s.Batches[i]
		if m.BaseOffset < next || m.LastOffsetDelta < 0 || m.LastOffset() < m.BaseOffset || m.Len < minBatch {
			panic(fmt.Sprintf("bundle: batch of %d bytes at offset %d + %d of %s, want at least %d",
				m.Len, m.BaseOffset, m.LastOffsetDelta, s.TP, next))
		}
		next = m.LastOffset() + 1
	}
	if len(s.Batches) == 0 || s.Slot < 0 || s.TP.Partition < 0 {
		panic(fmt.Sprintf("bundle: slice of %d batches of slot %d, %s", len(s.Batches), s.Slot, s.TP))
	}
}

// SealBuffers builds the seal that ends target's WAL at target.Seq, put by
// sealer. It is SealSize bytes long.
func SealBuffers(target, sealer Origin) (bufs [][]byte, sum uint32) {
	b := appendHeader(make([]byte, 0, SealSize), KindSeal, target)
	b = appendHeader(b, KindSeal, target)
	b = appendOrigin(b, sealer)
	footer, sum := appendTrailer(b[HeaderLen:], KindSeal, HeaderLen)
	return [][]byte{b[:HeaderLen], footer}, sum
}
