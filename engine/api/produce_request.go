package api

import (
	"encoding/binary"
	"errors"

	"github.com/varvelog/varve/internal/kafka"
)

// Errors of the decoder.
var (
	errTruncated = errors.New("truncated request")
	errTooMany   = errors.New("too many topics or partitions")
)

// produceRequest is a decoded Produce request. Requests of this key may be as
// large as socket.request.max.bytes, so nothing here is allocated by what a
// length field says.
//
//	transactional id nullable string | acks int16 | timeout ms int32 |
//	[ topic: name string, from version 13 id uuid |
//	  [ partition: index int32 | records nullable bytes ] ]
type produceRequest struct {
	transactionalID string
	transactional   bool // it has such an id
	acks            int16
	timeoutMs       int32
	topics          []produceTopic
}

type produceTopic struct {
	name  string        // up to version 12
	id    kafka.TopicID // from version 13
	parts []producePart
}

type producePart struct {
	index   int32
	records []byte // refers to the frame; nil: null
}

// decodeProduce reads the body of a Produce request, versions 3 to 13.
func decodeProduce(version int16, body []byte) (*produceRequest, error) {
	d := produceDecoder{b: body, flexible: version >= 9}
	id := d.nullableBytes(2)
	req := &produceRequest{transactionalID: string(id), transactional: id != nil, acks: d.int16(), timeoutMs: d.int32()}
	for n := d.arrayLen(); n > 0 && d.err == nil; n-- {
		var t produceTopic
		if version >= 13 {
			t.id = d.uuid()
		} else {
			t.name = string(d.nullableBytes(2))
		}
		for m := d.arrayLen(); m > 0 && d.row(); m-- {
			t.parts = append(t.parts, producePart{d.int32(), d.nullableBytes(4)})
			d.tags()
		}
		d.tags()
		if d.row() {
			req.topics = append(req.topics, t)
		}
	}
	d.tags()
	return req, d.err
}

// produceDecoder reads fields from b until err is set.
type produceDecoder struct {
	b        []byte
	flexible bool
	rows     int
	err      error
}

// row counts a topic or partition; false: stop.
func (d *produceDecoder) row() bool {
	if d.rows++; d.rows > maxElements && d.err == nil {
		d.err = errTooMany
	}
	return d.err == nil
}

// take returns the next n bytes, or as many zeros of at most 16.
func (d *produceDecoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.err = errTruncated
	}
	if d.err != nil {
		return make([]byte, min(n, 16))
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *produceDecoder) int16() int16 { return int16(binary.BigEndian.Uint16(d.take(2))) }
func (d *produceDecoder) int32() int32 { return int32(binary.BigEndian.Uint32(d.take(4))) }

func (d *produceDecoder) uuid() (id kafka.TopicID) {
	copy(id[:], d.take(16))
	return id
}

func (d *produceDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b[:min(len(d.b), 5)])
	if n <= 0 || v > 1<<32-1 {
		d.err = errTruncated
		return 0
	}
	d.take(uint64(n))
	return v
}

// arrayLen returns an array's length, 0 for null.
func (d *produceDecoder) arrayLen() int64 {
	if d.flexible {
		return max(int64(d.uvarint())-1, 0)
	}
	return max(int64(d.int32()), 0)
}

// nullableBytes returns a string or bytes whose length has size bytes where
// it is not compact; nil for null.
func (d *produceDecoder) nullableBytes(size int) []byte {
	var n int64
	switch {
	case d.flexible:
		n = int64(d.uvarint()) - 1
	case size == 2:
		n = int64(d.int16())
	default:
		n = int64(d.int32())
	}
	if n < 0 {
		return nil
	}
	return d.take(uint64(n))
}

// tags skips tagged fields.
func (d *produceDecoder) tags() {
	if !d.flexible {
		return
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		d.uvarint()
		d.take(d.uvarint())
	}
}
