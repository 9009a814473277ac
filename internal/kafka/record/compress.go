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

// DefaultLevel leaves the level to the codec.
const DefaultLevel = math.MinInt

// xerialBlock is the most that goes into one block of snappy's framing.
const xerialBlock = 32 << 10

// encoderKey names compressors that can stand in for each other. There are
// as many as the codecs have steps, some thirty.
type encoderKey struct {
	codec Codec
	step  int
}

// encoders has a *sync.Pool of compressors for each encoderKey: they cost far
// more to make than to use.
var encoders sync.Map

// compress appends what src compresses to.
func compress(c Codec, level int, dst, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Snappy:
		return appendXerial(dst, src), nil
	case Gzip, LZ4, Zstd:
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, c)
	}
	key := encoderKey{c, step(c, level)}
	pool, ok := encoders.Load(key)
	if !ok {
		pool, _ = encoders.LoadOrStore(key, new(sync.Pool))
	}
	enc := pool.(*sync.Pool).Get()
	if enc == nil {
		var err error
		if enc, err = newEncoder(key); err != nil {
			return nil, fmt.Errorf("compress %v: %w", c, err)
		}
	}
	defer pool.(*sync.Pool).Put(enc)
	if z, ok := enc.(*zstd.Encoder); ok {
		return z.EncodeAll(src, dst), nil
	}
	w, ok := enc.(interface {
		io.WriteCloser
		Reset(io.Writer)
	})
	if !ok {
		return nil, errors.New("compress: no such encoder")
	}
	out := bytes.NewBuffer(dst)
	w.Reset(out)
	defer w.Reset(io.Discard)
	if _, err := w.Write(src); err != nil {
		return nil, fmt.Errorf("compress %v: %w", c, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress %v: %w", c, err)
	}
	return out.Bytes(), nil
}

// step maps a level of compression.<codec>.level to the library's own scale.
func step(c Codec, level int) int {
	switch {
	case c == Zstd && level == DefaultLevel:
		return int(zstd.SpeedDefault)
	case c == Zstd:
		return int(zstd.EncoderLevelFromZstd(level))
	case c == LZ4 && level == DefaultLevel:
		return 0
	case c == LZ4: // 1 to 17, of which the first is the fast one
		return min(max(level, 1), 10) - 1
	case level == DefaultLevel:
		return gzip.DefaultCompression
	}
	return level
}

func newEncoder(key encoderKey) (any, error) {
	switch key.codec {
	case Gzip:
		return gzip.NewWriterLevel(io.Discard, key.step)
	case LZ4:
		w := lz4.NewWriter(io.Discard)
		levels := [...]lz4.CompressionLevel{lz4.Fast, lz4.Level1, lz4.Level2, lz4.Level3, lz4.Level4, lz4.Level5, lz4.Level6, lz4.Level7, lz4.Level8, lz4.Level9}
		return w, w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.CompressionLevelOption(levels[key.step]))
	default:
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevel(key.step)), zstd.WithLowerEncoderMem(true))
	}
}

// appendXerial appends src in the framing that Java clients read and write.
func appendXerial(dst, src []byte) []byte {
	dst = append(dst, xerial...)
	for len(src) > 0 {
		block := src[:min(len(src), xerialBlock)]
		enc := s2.EncodeSnappy(nil, block)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(enc)))
		dst = append(dst, enc...)
		src = src[len(block):]
	}
	return dst
}

// recompress returns batch b, whose records are body when decompressed, with
// its records in another codec, and all else as it was.
func recompress(b, body []byte, c Compression) ([]byte, error) {
	out := append(make([]byte, 0, HeaderLen+len(body)/2), b[:HeaderLen]...)
	out, err := compress(c.Codec, c.Level, out, body)
	if err != nil {
		return nil, err
	}
	if len(out)-lengthPrefix > math.MaxInt32 {
		return nil, ErrTooLarge
	}
	be := binary.BigEndian
	be.PutUint32(out[8:], uint32(len(out)-lengthPrefix))
	be.PutUint16(out[21:], be.Uint16(b[21:])&^attrCodec|uint16(c.Codec))
	setCRC(out)
	return out, nil
}
