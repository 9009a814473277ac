package wire

import "encoding/binary"

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

func (e *encoder) string(s string) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(len(s))+1)
	} else {
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
