package record

import (
	"bytes"
	"fmt"
	"io"
)

// maxNames bounds the header names that a Reader keeps.
const maxNames = 1024

// Reader reads the records of one batch after the other, and allocates nothing
// for a record: what it returns is valid until the next call, but for the names of
// headers. It is used by one goroutine.
type Reader struct {
	rest    []byte
	left    int32
	plain   bytes.Buffer
	headers []KV
	names   map[string]string // of headers, as strings
}

// Reset begins a batch, which decompresses to at most limit bytes. Errors are
// those of Records.
func (r *Reader) Reset(b []byte, limit int) error {
	h, err := ParseHeader(b)
	if err == nil && h.Size() > len(b) {
		err = ErrTruncated
	}
	if err != nil {
		return err
	}
	body := b[HeaderLen:h.Size()]
	if h.Codec() != None {
		r.plain.Reset()
		if err := decompressTo(&r.plain, h.Codec(), body, limit); err != nil {
			return err
		}
		body = r.plain.Bytes()
	}
	r.ResetPlain(body, h.NumRecords)
	return nil
}

// ResetPlain begins a batch of count records whose records section is body,
// decompressed (Decompress).
func (r *Reader) ResetPlain(body []byte, count int32) { r.rest, r.left = body, count }

// Next reads the next record; false is the batch's end.
func (r *Reader) Next(rec *Record) (bool, error) {
	if r.left == 0 {
		if len(r.rest) > 0 {
			return false, ErrMalformed
		}
		return false, nil
	}
	n, err := readRecord(r.rest, rec, r.headers[:0], r.name)
	if err != nil {
		return false, err
	}
	if rec.Headers != nil {
		r.headers = rec.Headers
	}
	r.rest = r.rest[n:]
	r.left--
	return true, nil
}

// name returns a header's name as a string, one for all records that have it.
func (r *Reader) name(b []byte) string {
	if s, ok := r.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if r.names == nil {
		r.names = make(map[string]string)
	}
	if len(r.names) < maxNames {
		r.names[s] = s
	}
	return s
}

// Decompress appends the records section of one whole batch, decompressed, to dst.
// More than limit bytes are ErrTooLarge, and dst is returned as it was.
func Decompress(dst, b []byte, limit int) ([]byte, error) {
	h, err := ParseHeader(b)
	if err == nil && h.Size() > len(b) {
		err = ErrTruncated
	}
	if err != nil {
		return dst, err
	}
	body := b[HeaderLen:h.Size()]
	if h.Codec() == None {
		if len(body) > limit {
			return dst, ErrTooLarge
		}
		return append(dst, body...), nil
	}
	out := bytes.NewBuffer(dst)
	if err := decompressTo(out, h.Codec(), body, limit); err != nil {
		return dst, err
	}
	return out.Bytes(), nil
}

// decompressTo appends at most limit bytes of what src decompresses to.
func decompressTo(out *bytes.Buffer, c Codec, src []byte, limit int) error {
	s, err := openStream(c, src, limit)
	if err != nil {
		return err
	}
	defer s.close()
	if out.Cap() == 0 {
		out.Grow(min(4*len(src), limit) + bytes.MinRead)
	}
	n, err := out.ReadFrom(io.LimitReader(s.r, int64(limit)+1))
	if err != nil {
		return fmt.Errorf("decompress %v: %w", c, err)
	}
	if n > int64(limit) {
		return ErrTooLarge
	}
	return nil
}
