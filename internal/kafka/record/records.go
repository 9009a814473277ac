package record

import (
	"encoding/binary"
	"iter"

	"github.com/varvelog/varve/internal/kafka"
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

// scanner reads the fields of one record; any misstep makes it bad.
type scanner struct {
	b   []byte
	bad bool
}

func (s *scanner) varint() int64 {
	v, n := binary.Varint(s.b)
	if n <= 0 {
		s.bad = true
		return 0
	}
	s.b = s.b[n:]
	return v
}

// bytes reads a length and that many bytes; a length of -1 is null.
func (s *scanner) bytes() []byte {
	n := s.varint()
	if n == -1 {
		return nil
	}
	if s.bad || n < 0 || n > int64(len(s.b)) {
		s.bad = true
		return nil
	}
	v := s.b[:n:n]
	s.b = s.b[n:]
	return v
}

// parseRecord reads the record at the beginning of b and returns its length.
func parseRecord(b []byte) (Record, int, error) {
	size, n := binary.Varint(b)
	if n <= 0 || size < 1 || size > int64(len(b)-n) {
		return Record{}, 0, ErrMalformed
	}
	total := n + int(size)
	s := scanner{b: b[n+1 : total]}
	r := Record{Attributes: int8(b[n]), TimestampDelta: s.varint()}
	delta := s.varint()
	r.OffsetDelta = int32(delta)
	s.bad = s.bad || int64(r.OffsetDelta) != delta
	r.Key, r.Value = s.bytes(), s.bytes()
	count := s.varint()
	if s.bad || count < 0 || count > int64(len(s.b)) { // a header takes two bytes or more
		return Record{}, 0, ErrMalformed
	}
	if count > 0 {
		r.Headers = make([]KV, 0, min(count, int64(len(s.b)/2)))
		for range count {
			k := s.bytes()
			s.bad = s.bad || k == nil
			r.Headers = append(r.Headers, KV{Key: string(k), Value: s.bytes()})
			if s.bad {
				return Record{}, 0, ErrMalformed
			}
		}
	}
	if s.bad || len(s.b) > 0 {
		return Record{}, 0, ErrMalformed
	}
	return r, total, nil
}

// FindTimestamp returns the first record of a batch whose time is ts or later.
func FindTimestamp(b []byte, ts int64) (off kafka.Offset, at int64, ok bool, err error) {
	h, err := ParseHeader(b)
	if err != nil || h.MaxTimestamp < ts {
		return 0, 0, false, err
	}
	if h.LogAppendTime() {
		return h.BaseOffset, h.MaxTimestamp, true, nil
	}
	for r, err := range Records(b, MaxDecompressed) {
		if err != nil {
			return 0, 0, false, err
		}
		if at := h.FirstTimestamp + r.TimestampDelta; at >= ts {
			return h.BaseOffset + kafka.Offset(r.OffsetDelta), at, true, nil
		}
	}
	return 0, 0, false, nil
}

// MaxTimestampOffset returns the first record that has the batch's largest
// time (KIP-734).
func MaxTimestampOffset(b []byte) (off kafka.Offset, ts int64, err error) {
	h, err := ParseHeader(b)
	if err != nil {
		return 0, 0, err
	}
	if h.LogAppendTime() { // all have it; Kafka answers with the last
		return h.LastOffset(), h.MaxTimestamp, nil
	}
	off, ts = -1, -1
	for r, err := range Records(b, MaxDecompressed) {
		if err != nil {
			return 0, 0, err
		}
		if at := h.FirstTimestamp + r.TimestampDelta; at > ts {
			off, ts = h.BaseOffset+kafka.Offset(r.OffsetDelta), at
		}
	}
	return off, ts, nil
}
