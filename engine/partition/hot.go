package partition

import (
	"fmt"
	"path"
	"slices"
	"sort"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

const (
	markBytes    = 32 << 10 // between two marks of a slice
	rollSlices   = 1 << 14  // hot slices from which a partition is due for a segment
	maxHotSlices = 1 << 16  // hot slices with which a partition takes no more
	maxReadRefs  = 512      // slices that one Read touches

	maxSliceBytes = 16 << 20 // of slices joined in the index; a WAL object has no more
)

// slice is an entry of the hot index. It is immutable: readers keep copies.
type slice struct {
	Ref
	marks []mark // ascending, the first at 0; nil: not known, or the slice is short
}

// mark says where in a slice a batch begins.
type mark struct {
	base kafka.Offset
	pos  int64 // from the slice's first byte
}

// newSlice makes an entry of a slice that lies in the object key.
func newSlice(key string, s bundle.Slice) slice {
	e := slice{Ref: s.Ref(key)}
	if e.Len > 2*markBytes {
		for _, b := range s.Batches {
			e.marks = addMark(e.marks, b.BaseOffset, b.Pos-s.Pos)
		}
	}
	return e
}

func addMark(marks []mark, base kafka.Offset, pos int64) []mark {
	if n := len(marks); n > 0 && pos < marks[n-1].pos+markBytes {
		return marks
	}
	return append(marks, mark{base, pos})
}

// floorOffset returns the last known batch boundary that lies before the end
// of the batch that holds off.
func (s *slice) floorOffset(off kafka.Offset) mark {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].base > off })
	if i == 0 {
		return mark{s.Base, 0}
	}
	return s.marks[i-1]
}

// floorPos returns the last known batch boundary at or before pos.
func (s *slice) floorPos(pos int64) mark {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].pos > pos })
	if i == 0 {
		return mark{s.Base, 0}
	}
	return s.marks[i-1]
}

// ceilPos returns the first known batch boundary at or behind pos, or the slice's end.
func (s *slice) ceilPos(pos int64) int64 {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].pos >= pos })
	if i == len(s.marks) {
		return s.Len
	}
	return s.marks[i].pos
}

// index is the hot index: slices in ascending order without gaps.
//
//	[ Base … Last ][ Base … Last ] … [ Base … Last ]
//	  start()                                 end()-1
type index struct {
	slices  []slice
	bytes   int64
	maxTime int64 // the largest timestamp, ms
}

// newIndex makes an index of recovered slices. Those that lie one behind the
// other in a checkpoint become one.
func newIndex(refs []Ref) index {
	var x index
	for _, r := range refs {
		n := len(x.slices)
		switch {
		case n == 0:
			x.push(slice{Ref: r})
			continue
		case x.slices[n-1].Last+1 != r.Base:
			panic(fmt.Sprintf("hot index: offset %d follows %d", r.Base, x.slices[n-1].Last))
		}
		if last := &x.slices[n-1].Ref; last.Key == r.Key && last.Pos+last.Len == r.Pos && last.Len+r.Len <= maxSliceBytes {
			last.Len, last.Last, last.MaxTimestamp = last.Len+r.Len, r.Last, max(last.MaxTimestamp, r.MaxTimestamp)
			continue
		}
		x.push(slice{Ref: r})
	}
	x.sum()
	return x
}

// joinMoved returns slices that were copied into one object as fewer ones: those that follow each other
// in offsets and bytes become one. Those of several sessions do not: RAM may have one's and not the other's, and
// a short slice is read whole.
func (x *index) joinMoved(all []bundle.Slice) []bundle.Slice {
	var out []bundle.Slice
	from := "" // the last one's session
	for _, s := range all {
		if len(s.Batches) == 0 {
			continue
		}
		was := from
		if i := x.find(s.Batches[0].BaseOffset); i < len(x.slices) {
			from = path.Dir(x.slices[i].Key)
		}
		if n := len(out); n > 0 && from == was {
			last := &out[n-1]
			end := last.Batches[len(last.Batches)-1].LastOffset() + 1
			if last.Pos+last.Len == s.Pos && end == s.Batches[0].BaseOffset && last.Len+s.Len <= maxSliceBytes {
				last.Len += s.Len
				last.Batches = append(last.Batches, s.Batches...)
				continue
			}
		}
		s.Batches = slices.Clone(s.Batches) // to be appended to
		out = append(out, s)
	}
	return out
}

func (x *index) push(s slice) {
	x.slices = append(x.slices, s)
	x.bytes += s.Len
	x.maxTime = max(x.maxTime, s.MaxTimestamp)
}

// find returns the position of the slice that holds off, or, if none does, of
// the first one behind it.
func (x *index) find(off kafka.Offset) int {
	return sort.Search(len(x.slices), func(i int) bool { return x.slices[i].Last >= off })
}

// drop forgets the slices that lie wholly below off.
func (x *index) drop(off kafka.Offset) {
	x.slices = slices.Delete(x.slices, 0, x.find(off))
	x.sum()
}

// sum is done when slices have gone.
func (x *index) sum() {
	if len(x.slices) < cap(x.slices)/4 {
		x.slices = slices.Clone(x.slices)
	}
	x.bytes, x.maxTime = 0, 0
	for i := range x.slices {
		x.bytes += x.slices[i].Len
		x.maxTime = max(x.maxTime, x.slices[i].MaxTimestamp)
	}
}

// learn keeps the marks that a reader found for a slice that had none.
func (x *index) learn(s slice) {
	if i := x.find(s.Base); i < len(x.slices) && x.slices[i].Ref == s.Ref {
		x.slices[i].marks = s.marks
	}
}

// replace puts a slice that was copied to another object in the place of
// those that it was copied from. What of them has gone meanwhile stays gone.
//
//	x    [ a ][ b ][ c ][ d ]           [ b ][ c ][ d ]
//	m    [    m    ]            or      [  m ]
//	     [    m    ][ c ][ d ]          [m' ][ c ][ d ]      m' is m without a's batches
func (x *index) replace(key string, m bundle.Slice) {
	first, last := m.Batches[0].BaseOffset, m.Batches[len(m.Batches)-1].LastOffset()
	i, j := x.find(first), x.find(last)
	if i == len(x.slices) || x.slices[i].Base > last {
		return
	}
	if j == len(x.slices) || x.slices[j].Last != last || x.slices[i].Base < first {
		panic(fmt.Sprintf("hot index: moved slice [%d, %d] cuts a slice", first, last))
	}
	if start := x.slices[i].Base; start > first {
		m = cutFront(m, start)
	}
	x.slices = slices.Replace(x.slices, i, j+1, newSlice(key, m))
	x.sum()
}

// cutFront returns m from the batch that begins at start.
func cutFront(m bundle.Slice, start kafka.Offset) bundle.Slice {
	n := sort.Search(len(m.Batches), func(i int) bool { return m.Batches[i].BaseOffset >= start })
	if n == len(m.Batches) || m.Batches[n].BaseOffset != start {
		panic(fmt.Sprintf("hot index: moved slice has no batch at offset %d", start))
	}
	m.Batches = m.Batches[n:]
	m.Len -= m.Batches[0].Pos - m.Pos
	m.Pos = m.Batches[0].Pos
	return m
}

func (x *index) refs() []Ref {
	refs := make([]Ref, len(x.slices))
	for i := range x.slices {
		refs[i] = x.slices[i].Ref
	}
	return refs
}
