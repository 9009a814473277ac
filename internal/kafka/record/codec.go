package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a compression codec, as the low bits of a batch's attributes say.
type Codec int8

// The codecs of message format v2 (zstd: KIP-110).
const (
	None   Codec = 0
	Gzip   Codec = 1
	Snappy Codec = 2
	LZ4    Codec = 3
	Zstd   Codec = 4
)

// String returns the codec's name as compression.type spells it.
func (c Codec) String() string {
	if c < None || c > Zstd {
		return fmt.Sprintf("codec(%d)", int8(c))
	}
	return [...]string{"uncompressed", "gzip", "snappy", "lz4", "zstd"}[c]
}

// maxExpansion returns how many bytes one compressed byte can become at most.
func (c Codec) maxExpansion() int64 {
	if c < None || c > Zstd {
		return 0
	}
	return [...]int64{None: 1, Gzip: 1032, Snappy: 64, LZ4: 255, Zstd: 1 << 15}[c]
}

// zstdWindow is the largest window, in bytes, that a zstd stream gets a buffer for.
// All of Kafka's levels up to 19 stay below.
const zstdWindow = 8 << 20

// zstdBlock is the most that one block of a zstd frame becomes (RFC 8878).
const zstdBlock = 128 << 10

// stream is an open decompressor. Decompressors cost far more to make than to
// use, so they are kept between batches.
type stream struct {
	r      io.Reader
	src    bytes.Reader
	pool   *sync.Pool // nil: not kept
	window [32 << 10]byte
}

var streams [Zstd + 1]sync.Pool

// openStream opens src, which decompresses to at most limit bytes, give or
// take what the reader counts itself.
func openStream(c Codec, src []byte, limit int) (*stream, error) {
	if c <= None || c > Zstd {
		return nil, fmt.Errorf("%w: %d", ErrCodec, c)
	}
	if h, wide := wideZstd(c, src); wide {
		b, err := unzstd(h, src, limit)
		if err != nil {
			return nil, err
		}
		return &stream{r: bytes.NewReader(b)}, nil
	}
	s, ok := streams[c].Get().(*stream)
	if !ok {
		s = &stream{pool: &streams[c]}
	}
	s.src.Reset(src)
	if err := s.reset(c, src, limit); err != nil {
		s.close()
		return nil, fmt.Errorf("%v: %w", c, err)
	}
	return s, nil
}

func (s *stream) reset(c Codec, src []byte, limit int) (err error) {
	switch c {
	case Gzip:
		r, ok := s.r.(*gzip.Reader)
		if !ok {
			r = new(gzip.Reader)
			s.r = r
		}
		return r.Reset(&s.src)
	case Snappy:
		if bytes.HasPrefix(src, xerial[:8]) {
			s.r = &xerialReader{src: src, limit: limit}
			return nil
		}
		b, err := unsnappy(src, limit)
		s.r = bytes.NewReader(b)
		return err
	case LZ4:
		r, ok := s.r.(*lz4.Reader)
		if !ok {
			r = lz4.NewReader(nil)
			s.r = r
		}
		r.Reset(&s.src)
	default:
		r, ok := s.r.(*zstd.Decoder)
		if !ok {
			if r, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow)); err != nil {
				return err
			}
			s.r = r
		}
		return r.Reset(&s.src)
	}
	return nil
}

// close gives the decompressor back, without the batch.
func (s *stream) close() {
	s.src.Reset(nil)
	if s.pool != nil {
		if s.pool == &streams[Snappy] {
			s.r = nil
		}
		s.pool.Put(s)
	}
}

// decompress returns at most limit bytes of what src decompresses to; more is
// ErrTooLarge.
func decompress(c Codec, src []byte, limit int) ([]byte, error) {
	if c == None {
		return src, nil
	}
	var out bytes.Buffer
	if err := decompressTo(&out, c, src, limit); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// wideZstd tells whether a frame asks for a window over zstdWindow.
func wideZstd(c Codec, src []byte) (h zstd.Header, wide bool) {
	if c != Zstd || h.Decode(src) != nil || h.Skippable {
		return h, false
	}
	return h, h.WindowSize > zstdWindow || h.SingleSegment && h.FrameContentSize > zstdWindow
}

// unzstd decompresses a frame whose window is too wide to be given a buffer on
// the frame's word: the output is its window, and gets room as it is found to
// need it, never more than src could fill.
func unzstd(h zstd.Header, src []byte, limit int) ([]byte, error) {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	defer r.Close()
	most := int(min(int64(limit), Zstd.maxExpansion()*int64(len(src))))
	room := min(most, 1<<20)
	if h.HasFCS {
		room = int(min(uint64(most), h.FrameContentSize))
	}
	for ; ; room = min(most, 2*room) {
		b, err := r.DecodeAll(src, make([]byte, 0, room))
		switch {
		case err == nil:
			return b, nil
		case room-len(b) > zstdBlock: // room was not what it lacked
			return nil, fmt.Errorf("zstd: %w", err)
		case room == most:
			return nil, ErrTooLarge
		}
	}
}

// xerial is the header of the framing that Java clients put around snappy
// blocks: magic, version, lowest compatible version.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}

// xerialReader reads the blocks of that framing: length int32 | snappy block.
type xerialReader struct {
	src   []byte
	limit int // of one block, in bytes
	begun bool
	block []byte // decompressed and not yet read
}

// Read reads of the next block.
func (x *xerialReader) Read(p []byte) (int, error) {
	if !x.begun {
		if len(x.src) < len(xerial) {
			return 0, ErrTruncated
		}
		x.src, x.begun = x.src[len(xerial):], true
	}
	for len(x.block) == 0 {
		if len(x.src) == 0 {
			return 0, io.EOF
		}
		if len(x.src) < 4 {
			return 0, ErrTruncated
		}
		n := int64(binary.BigEndian.Uint32(x.src))
		if x.src = x.src[4:]; n > int64(len(x.src)) {
			return 0, ErrTruncated
		}
		var err error
		if x.block, err = unsnappy(x.src[:n], x.limit); err != nil {
			return 0, err
		}
		x.src = x.src[n:]
	}
	n := copy(p, x.block)
	x.block = x.block[n:]
	return n, nil
}

// unsnappy decompresses one snappy block.
func unsnappy(src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	if n > limit || int64(n) > Snappy.maxExpansion()*int64(len(src)) {
		return nil, ErrTooLarge
	}
	b, err := s2.Decode(nil, src)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	return b, nil
}
