// Package wire frames the Kafka protocol: requests come in here, and the two
// responses of the hot paths, Fetch and Produce, are encoded here over the record
// slices themselves. All other messages are kmsg's.
//
//	request:  length int32 | key int16 | version int16 | correlation id int32 |
//	          client id nullable string | tags, where flexible | body
//	response: length int32 | correlation id int32 | tags, where flexible | body
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Errors of the readers.
var (
	ErrFrameSize = errors.New("wire: frame size out of bounds")
	ErrHeader    = errors.New("wire: malformed request header")
	ErrTruncated = errors.New("wire: truncated request")
)

const (
	produceKey = 0
	// maxOther bounds the requests that carry no records. The decoder's
	// arrays take many times an element's bytes on the wire, so this bounds
	// what a hostile length can make it allocate.
	maxOther = 4 << 20
	// step is how far ahead of what has arrived a frame is allocated.
	step = 1 << 20
)

// MaxFrame returns the largest frame in bytes of a request with that key,
// where the configured largest request is limit.
func MaxFrame(key int16, limit int32) int32 {
	if key == produceKey {
		return limit
	}
	return min(limit, maxOther)
}

// Ahead is memory that many readers share (semaphore.Weighted is one).
type Ahead interface {
	TryAcquire(bytes int64) bool
	Release(bytes int64)
}

// ReadFrame reads one frame without its length. A frame of up to 1 MiB is one
// exact allocation, and so is a larger one if ahead, the bytes that all readers
// together may take before they have arrived, has room for it (nil: none). Else
// it grows as it arrives: memory never runs more than 1 MiB, or once again what
// has arrived, ahead. io.EOF means that the peer closed between frames.
func ReadFrame(r io.Reader, limit int32, ahead Ahead) ([]byte, error) {
	var head [8]byte // the length, and of the frame the key and version
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	if size < 8 || size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrameSize, size, limit)
	}
	if _, err := io.ReadFull(r, head[4:]); err != nil {
		return nil, unexpected(err)
	}
	key := int16(binary.BigEndian.Uint16(head[4:]))
	if size > MaxFrame(key, limit) {
		return nil, fmt.Errorf("%w: %d bytes for key %d", ErrFrameSize, size, key)
	}
	if size > step && ahead != nil && ahead.TryAcquire(int64(size)) {
		defer ahead.Release(int64(size))
		return readRest(r, head[4:], int(size), int(size))
	}
	return readRest(r, head[4:], int(size), step)
}

// ReadResponse reads one response without its length, of up to limit bytes, as
// ReadFrame reads requests.
func ReadResponse(r io.Reader, limit int32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	if size < 4 || size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrameSize, size, limit)
	}
	return readRest(r, nil, int(size), step)
}

// readRest reads the rest of size bytes that begin with head, into so many
// bytes at first.
func readRest(r io.Reader, head []byte, size, first int) ([]byte, error) {
	frame := make([]byte, min(size, first))
	n := copy(frame, head)
	for {
		if _, err := io.ReadFull(r, frame[n:]); err != nil {
			return nil, unexpected(err)
		}
		if n = len(frame); n == size {
			return frame, nil
		}
		grown := make([]byte, min(size, 2*n))
		copy(grown, frame)
		frame = grown
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// RequestHeader is the header of a request, version 1 or 2.
type RequestHeader struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      *string
}

// ParseRequestHeader splits a frame into header and body. A key that nobody
// knows, or a version far off, is read as not flexible.
func ParseRequestHeader(frame []byte) (h RequestHeader, body []byte, err error) {
	if len(frame) < 8 {
		return h, nil, ErrHeader
	}
	be := binary.BigEndian
	h = RequestHeader{Key: int16(be.Uint16(frame)), Version: int16(be.Uint16(frame[2:])), CorrelationID: int32(be.Uint32(frame[4:]))}
	body = frame[8:]
	if h.ClientID, body, err = clientID(body); err != nil {
		return h, nil, err
	}
	if req := kmsg.RequestForKey(h.Key); req != nil {
		if req.SetVersion(h.Version); req.IsFlexible() {
			body, err = skipTags(body)
		}
	}
	return h, body, err
}

func clientID(b []byte) (*string, []byte, error) {
	if len(b) < 2 { // some old clients send no client id with ApiVersions
		return nil, b, ErrHeader
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	b = b[2:]
	if n < 0 {
		return nil, b, nil
	}
	if n > len(b) {
		return nil, nil, ErrHeader
	}
	id := string(b[:n])
	return &id, b[n:], nil
}

func skipTags(b []byte) ([]byte, error) {
	count, b, err := uvarint(b)
	for ; err == nil && count > 0; count-- {
		var size uint64
		if _, b, err = uvarint(b); err != nil {
			break
		}
		if size, b, err = uvarint(b); err != nil {
			break
		}
		if size > uint64(len(b)) {
			return nil, ErrHeader
		}
		b = b[size:]
	}
	return b, err
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, ErrHeader
	}
	return v, b[n:], nil
}
