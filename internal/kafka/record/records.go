package record

import (
	"encoding/binary"
	"iter"
	"slices"
)

// MaxDecompressed bounds what one batch may decompress to, in bytes.
const MaxDecompressed = 256 << 20

// KV is a header of a record.
type KV struct {
	Key   string
	Value []byte // nil: null
}

// Record is one record of a batch. Key, Value and header values refer to the
// batch's (decompressed) bytes.
type Record struct {
	Attributes     int8
	TimestampDelta int64
	OffsetDelta    int32
	Key, Value     []byte // nil: null
	Headers        []KV
}

// Records yields the records of one whole batch, which decompresses to at most
// limit bytes. A malformed record is yielded as an error, last.
func Records(b []byte, limit int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		h, body, err := open(b, limit)
		if err != nil {
			yield(Record{}, err)
			return
		}
		for range h.NumRecords {
			rec, n, err := parseRecord(body)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !yield(rec, nil) {
				return
			}
			body = body[n:]
		}
		if len(body) > 0 {
			yield(Record{}, ErrMalformed)
		}
	}
}

// open returns a batch's header and its records section, decompressed.
func open(b []byte, limit int) (Header, []byte, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return h, nil, err
	}
	if h.Size() > len(b) {
		return h, nil, ErrTruncated
	}
	body, err := decompress(h.Codec(), b[HeaderLen:h.Size()], limit)
	return h, body, err
}

// parseRecord reads the record at the beginning of b and returns its length.
func parseRecord(b []byte) (r Record, n int, err error) {
	n, err = readRecord(b, &r, nil, func(name []byte) string { return string(name) })
	return r, n, err
}

// readRecord reads the record at the beginning of b into r and returns its
// length. Its headers are appended to headers, their names made by name.
func readRecord(b []byte, r *Record, headers []KV, name func([]byte) string) (int, error) {
	size, n := binary.Varint(b)
	if n <= 0 || size < 1 || size > int64(len(b)-n) {
		return 0, ErrMalformed
	}
	total := n + int(size)
	s := scanner{b: b[n+1 : total]}
	*r = Record{Attributes: int8(b[n]), TimestampDelta: s.varint()}
	delta := s.varint()
	r.OffsetDelta = int32(delta)
	s.bad = s.bad || int64(r.OffsetDelta) != delta
	r.Key, r.Value = s.bytes(), s.bytes()
	count := s.varint()
	if s.bad || count < 0 || count > int64(len(s.b)-s.i)/2 { // a header takes two bytes or more
		return 0, ErrMalformed
	}
	if count > 0 {
		r.Headers = slices.Grow(headers, int(count))
		for range count {
			k := s.bytes()
			if s.bad || k == nil {
				return 0, ErrMalformed
			}
			r.Headers = append(r.Headers, KV{Key: name(k), Value: s.bytes()})
		}
	}
	if s.bad || s.i < len(s.b) {
		return 0, ErrMalformed
	}
	return total, nil
}
