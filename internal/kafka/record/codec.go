package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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

// DefaultLevel leaves the level to the codec.
const DefaultLevel = math.MinInt

// The decoders and encoders below cost far more to make than to use, so they
// are kept between calls.
var (
	gzipReaders sync.Pool
	lz4Readers  sync.Pool
	zstdReaders sync.Pool
)

// decompress returns at most limit bytes of what src decompresses to; more is
// ErrTooLarge.
func decompress(c Codec, src []byte, limit int) ([]byte, error) {
	switch c {
	case None:
		return src, nil
	case Gzip:
		r, ok := gzipReaders.Get().(*gzip.Reader)
		if !ok {
			r = new(gzip.Reader)
		}
		defer gzipReaders.Put(r)
		if err := r.Reset(bytes.NewReader(src)); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return readLimited(r, limit)
	case Snappy:
		return unsnappy(src, limit)
	case LZ4:
		r, ok := lz4Readers.Get().(*lz4.Reader)
		if !ok {
			r = lz4.NewReader(nil)
		}
		defer lz4Readers.Put(r)
		r.Reset(bytes.NewReader(src))
		return readLimited(r, limit)
	case Zstd:
		r, ok := zstdReaders.Get().(*zstd.Decoder)
		if !ok {
			var err error
			if r, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20)); err != nil {
				return nil, fmt.Errorf("zstd: %w", err)
			}
		}
		defer zstdReaders.Put(r)
		if err := r.Reset(bytes.NewReader(src)); err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return readLimited(r, limit)
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, c)
	}
}

func readLimited(r io.Reader, limit int) ([]byte, error) {
	var out bytes.Buffer
	n, err := out.ReadFrom(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if n > int64(limit) {
		return nil, ErrTooLarge
	}
	return out.Bytes(), nil
}

// xerial is the header of the framing that Java clients put around snappy
// blocks: magic, version, lowest compatible version.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}

// xerialBlock is the most that goes into one block of that framing.
const xerialBlock = 32 << 10

func unsnappy(src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerial[:8]) {
		return snappyBlock(nil, src, limit)
	}
	if len(src) < len(xerial) {
		return nil, ErrTruncated
	}
	var out []byte
	for src = src[len(xerial):]; len(src) > 0; {
		if len(src) < 4 {
			return nil, ErrTruncated
		}
		n := int64(binary.BigEndian.Uint32(src))
		if src = src[4:]; n > int64(len(src)) {
			return nil, ErrTruncated
		}
		var err error
		if out, err = snappyBlock(out, src[:n], limit); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return out, nil
}

func snappyBlock(dst, src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	if n > limit-len(dst) {
		return nil, ErrTooLarge
	}
	// A snappy byte expands to at most 64, give or take the block's header.
	if n > 64*len(src)+64 {
		return nil, fmt.Errorf("snappy: %w", errors.New("impossible length"))
	}
	block, err := s2.Decode(nil, src)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	if dst == nil {
		return block, nil
	}
	return append(dst, block...), nil
}

// compress appends what src compresses to.
func compress(c Codec, level int, dst, src []byte) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	switch c {
	case None:
		return append(dst, src...), nil
	case Gzip:
		if level == DefaultLevel {
			level = gzip.DefaultCompression
		}
		w, err := gzip.NewWriterLevel(out, level)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return finish(out, w, src)
	case Snappy:
		dst = append(dst, xerial...)
		for len(src) > 0 {
			block := src[:min(len(src), xerialBlock)]
			enc := s2.EncodeSnappy(nil, block)
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(enc)))
			dst = append(dst, enc...)
			src = src[len(block):]
		}
		return dst, nil
	case LZ4:
		w := lz4.NewWriter(out)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.CompressionLevelOption(lz4Level(level))); err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
		return finish(out, w, src)
	case Zstd:
		l := zstd.SpeedDefault
		if level != DefaultLevel {
			l = zstd.EncoderLevelFromZstd(level)
		}
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(l), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return w.EncodeAll(src, dst), nil
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, c)
	}
}

// lz4Level maps compression.lz4.level (1 to 17) to the library's steps.
func lz4Level(level int) lz4.CompressionLevel {
	if level == DefaultLevel || level <= 1 {
		return lz4.Fast
	}
	steps := []lz4.CompressionLevel{lz4.Level1, lz4.Level2, lz4.Level3, lz4.Level4, lz4.Level5, lz4.Level6, lz4.Level7, lz4.Level8, lz4.Level9}
	return steps[min(level, len(steps))-1]
}

func finish(out *bytes.Buffer, w io.WriteCloser, src []byte) ([]byte, error) {
	if _, err := w.Write(src); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return out.Bytes(), nil
}
