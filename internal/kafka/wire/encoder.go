package wire

import (
	"encoding/binary"
	"math"

	"github.com/varvelog/varve/internal/kafka"
)

// Leader names a partition's leader and its epoch, in an answer that refuses
// to be it (KIP-951).
type Leader struct {
	ID    int32
	Epoch kafka.LeaderEpoch
}

// Endpoint tells where a broker named as leader is (KIP-951).
type Endpoint struct {
	ID   int32
	Host string
	Port int32
	Rack string // "": null
}

// encoder writes the protocol's types, in the form of the flexible versions
// (KIP-482) or the older one.
type encoder struct {
	b        []byte
	flexible bool
}

func (e *encoder) int16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *encoder) int32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *encoder) int64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

// tags writes an empty set of tagged fields.
func (e *encoder) tags() {
	if e.flexible {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) arrayLen(n int) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(n)+1)
		return
	}
	e.int32(int32(n))
}

func (e *encoder) nullArray() {
	if e.flexible {
		e.b = append(e.b, 0)
		return
	}
	e.int32(-1)
}

// string writes a string; one too long for the older form is cut off.
func (e *encoder) string(s string) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(len(s))+1)
	} else {
		s = s[:min(len(s), math.MaxInt16)]
		e.int16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

// nullable writes a string, or null where it is empty.
func (e *encoder) nullable(s string) {
	switch {
	case s != "":
		e.string(s)
	case e.flexible:
		e.b = append(e.b, 0)
	default:
		e.int16(-1)
	}
}

// tag begins a tagged field of size bytes.
func (e *encoder) tag(number, size int) {
	e.b = binary.AppendUvarint(e.b, uint64(number))
	e.b = binary.AppendUvarint(e.b, uint64(size))
}

const leaderSize = 4 + 4 + 1

func (e *encoder) leader(number int, l *Leader) {
	e.tag(number, leaderSize)
	e.int32(l.ID)
	e.int32(int32(l.Epoch))
	e.tags()
}

// endpoints writes a response's tagged fields: the endpoints as number 0, or none.
func (e *encoder) endpoints(list []Endpoint) {
	if len(list) == 0 {
		e.tags()
		return
	}
	size := uvarintLen(uint64(len(list)) + 1)
	for i := range list {
		size += list[i].size()
	}
	e.b = append(e.b, 1)
	e.tag(0, size)
	e.arrayLen(len(list))
	for i := range list {
		p := &list[i]
		e.int32(p.ID)
		e.string(p.Host)
		e.int32(p.Port)
		e.nullable(p.Rack)
		e.tags()
	}
}

func (p *Endpoint) size() int { return 4 + compactLen(p.Host) + 4 + compactLen(p.Rack) + 1 }

// compactLen returns how many bytes a compact string takes.
func compactLen(s string) int { return uvarintLen(uint64(len(s))+1) + len(s) }

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
