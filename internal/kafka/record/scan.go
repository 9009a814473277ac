package record

import (
	"encoding/binary"
	"io"
)

// scanner goes over the fields of records without building them, and over
// compressed ones without holding them: b is what it has before it, and where
// that ends, more comes out of the stream. A misstep makes it bad for good.
type scanner struct {
	b    []byte
	i    int   // the next byte of b
	past int64 // bytes that came before b
	bad  bool
	err  error   // of the stream
	in   *stream // nil: b is all
	left int     // bytes that the stream may still give
}

// scan begins at the first record of a whole batch, which decompresses to at
// most limit bytes. The caller closes the scanner.
func scan(b []byte, h Header, limit int) (scanner, error) {
	body := b[HeaderLen:h.Size()]
	if h.Codec() == None {
		return scanner{b: body}, nil
	}
	in, err := openStream(h.Codec(), body, limit)
	if err != nil {
		return scanner{}, err
	}
	return scanner{in: in, left: limit}, nil
}

// close gives the stream back.
func (s *scanner) close() {
	if s.in != nil {
		s.in.close()
		s.in = nil
	}
}

// fail returns why the scanner is bad.
func (s *scanner) fail() error {
	if s.err != nil {
		return s.err
	}
	return ErrMalformed
}

// fill reads on until a varint must be whole, or the stream has ended.
func (s *scanner) fill() {
	s.past += int64(s.i)
	n := copy(s.in.window[:], s.b[s.i:])
	s.i = 0
	for n < binary.MaxVarintLen64 && s.in != nil {
		m, err := s.in.r.Read(s.in.window[n:])
		n, s.left = n+m, s.left-m
		s.b = s.in.window[:n]
		switch {
		case s.left < 0:
			s.stop(ErrTooLarge)
		case err == io.EOF:
			s.close()
		case err != nil:
			s.stop(err)
		}
	}
}

func (s *scanner) stop(err error) {
	s.close()
	s.b, s.i, s.bad, s.err = nil, 0, true, err
}

func (s *scanner) varint() int64 {
	if s.i < len(s.b) && s.b[s.i] < 0x80 { // nearly all are
		c := s.b[s.i]
		s.i++
		return int64(c>>1) ^ -int64(c&1)
	}
	return s.longVarint()
}

func (s *scanner) longVarint() int64 {
	if len(s.b)-s.i < binary.MaxVarintLen64 && s.in != nil {
		s.fill()
	}
	v, n := binary.Varint(s.b[s.i:])
	if n <= 0 {
		s.bad = true
		return 0
	}
	s.i += n
	return v
}

// bytes reads a length and that many bytes; a length of -1 is null. It is for
// scanners without a stream.
func (s *scanner) bytes() []byte {
	n := s.varint()
	if n == -1 {
		return nil
	}
	if s.bad || n < 0 || n > int64(len(s.b)-s.i) {
		s.bad = true
		return nil
	}
	v := s.b[s.i : s.i+int(n) : s.i+int(n)]
	s.i += int(n)
	return v
}

func (s *scanner) skip(n int64) {
	if n <= int64(len(s.b)-s.i) {
		s.i += int(n)
		return
	}
	s.skipFar(n)
}

func (s *scanner) skipFar(n int64) {
	for n > int64(len(s.b)-s.i) {
		if s.in == nil {
			s.bad = true
			return
		}
		n -= int64(len(s.b) - s.i)
		s.i = len(s.b)
		s.fill()
	}
	s.i += int(n)
}

// skipBytes takes what bytes would, and tells whether it is null.
func (s *scanner) skipBytes() (null bool) {
	n := s.varint()
	switch {
	case n == -1:
		return true
	case n < 0:
		s.bad = true
	default:
		s.skip(n)
	}
	return false
}

// skim is what is looked at in a record without building it.
type skim struct {
	timestampDelta int64
	offsetDelta    int64
	nullKey        bool
}

// record takes one whole record and checks its structure.
func (s *scanner) record() skim {
	size := s.varint()
	end := s.past + int64(s.i) + size
	s.skip(1)
	r := skim{timestampDelta: s.varint(), offsetDelta: s.varint()}
	r.nullKey = s.skipBytes()
	s.skipBytes()
	count := s.varint()
	s.bad = s.bad || count < 0
	for ; count > 0 && !s.bad; count-- {
		nullName := s.skipBytes()
		s.skipBytes()
		s.bad = s.bad || nullName
	}
	s.bad = s.bad || s.past+int64(s.i) != end
	return r
}

// atEnd tells whether nothing is left.
func (s *scanner) atEnd() bool {
	if s.i == len(s.b) && s.in != nil {
		s.fill()
	}
	return s.i == len(s.b) && !s.bad
}
