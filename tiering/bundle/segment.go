package bundle

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/varvelog/varve/internal/kafka"
)

// frameTarget is the uncompressed size at which a frame ends: small enough to
// seek in, large enough to compress and to be read in one request. One of
// frameLeast bytes also ends where batches change between compressed and not:
// below that they share a frame, so that the index stays small where two
// producers take turns.
const (
	frameTarget = 512 << 10
	frameLeast  = 16 << 10
)

// SegmentInfo tells what a SegmentWriter has written.
type SegmentInfo struct {
	Info
	RawSize        int64 // bytes of all batches, uncompressed
	Records        int64
	FirstTimestamp int64 // ms, of the first record
	MaxTimestamp   int64 // ms
}

// SegmentWriter streams a sealed segment: batches are gathered into frames of
// about 512 KiB, each a zstd frame of its own; runs of batches that their
// producer compressed are stored. It is used by one goroutine, and keeps its encoder
// and buffers over Reset.
type SegmentWriter struct {
	enc    *zstd.Encoder
	out    out
	origin Origin

	raw, packed []byte
	frame       Frame // the one being gathered, whose batches are in raw
	frames      []Frame
	info        SegmentInfo
	base, next  kafka.Offset // of the segment; next is -1 before the first batch
}

// NewSegmentWriter begins a segment on w. Level is zstd's; 0 is the fastest.
// Errors of w are returned by the calls that follow.
func NewSegmentWriter(w io.Writer, o Origin, level zstd.EncoderLevel) (*SegmentWriter, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(max(level, zstd.SpeedFastest)),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("make segment writer: %w", err)
	}
	s := &SegmentWriter{enc: enc}
	s.Reset(w, o)
	return s, nil
}

// Reset begins another segment, whatever became of the one before.
func (s *SegmentWriter) Reset(w io.Writer, o Origin) {
	s.out, s.origin = out{w: w}, o
	s.raw, s.frames, s.frame, s.info = s.raw[:0], s.frames[:0], Frame{}, SegmentInfo{}
	s.base, s.next = -1, -1
	s.out.write(appendHeader(nil, KindSegment, o))
}

// Batch adds one whole batch b, described by m (Pos and Len are not used).
// Offsets only grow. b is not kept. It refuses a batch that is not what m
// says, without checking its CRC.
func (s *SegmentWriter) Batch(b []byte, m Batch) error {
	if len(b) < minBatch || headLen(b) != int64(len(b)) || headOffset(b) != m.BaseOffset || m.BaseOffset < s.next {
		return fmt.Errorf("write segment: batch of %d bytes at offset %d where %d or later should be", len(b), m.BaseOffset, s.next)
	}
	stored := m.Attributes&attrCodec != 0
	if turn := stored != s.frame.Stored && len(s.raw) >= frameLeast; turn || len(s.raw)+len(b) > frameTarget {
		s.flush()
	}
	if s.next < 0 {
		s.base, s.info.FirstTimestamp, s.info.MaxTimestamp = m.BaseOffset, headFirstTimestamp(b, m), m.MaxTimestamp
	}
	if len(s.raw) == 0 {
		s.frame = Frame{BaseOffset: m.BaseOffset, MaxTime: m.MaxTimestamp, Stored: stored}
	}
	s.frame.Stored = s.frame.Stored && stored
	s.frame.MaxTime = max(s.frame.MaxTime, m.MaxTimestamp)
	s.info.MaxTimestamp = max(s.info.MaxTimestamp, m.MaxTimestamp)
	s.info.Records += headRecords(b)
	s.next = m.LastOffset() + 1
	s.raw = append(s.raw, b...)
	return s.out.err
}

// flush ends the frame that is being gathered.
func (s *SegmentWriter) flush() {
	if len(s.raw) == 0 {
		return
	}
	f, data := s.frame, s.raw
	if !f.Stored {
		s.packed = s.enc.EncodeAll(s.raw, s.packed[:0])
		if data = s.packed; len(data) > len(s.raw)-len(s.raw)/16 {
			f.Stored, data = true, s.raw // not worth a reader's time
		}
	}
	f.Pos, f.Len = s.out.pos, int32(len(data))
	f.RawPos, f.RawLen = s.info.RawSize, int32(len(s.raw))
	f.CRC = crc32.Checksum(data, castagnoli)
	s.out.write(data)
	s.frames = append(s.frames, f)
	s.info.RawSize += int64(len(s.raw))
	if s.raw = s.raw[:0]; cap(s.raw) > 4*frameTarget {
		s.raw, s.packed = nil, nil // one huge batch does not stay in memory
	}
}

// Close writes footer and trailer. st is the partition's state at the
// segment's end, aborted the transactions that end in it (st.Aborted is not
// used). A segment has at least one batch and ends at st.NextOffset, which
// lies behind its last record.
func (s *SegmentWriter) Close(st State, aborted []AbortedTxn) (SegmentInfo, error) {
	s.flush()
	if s.next < 0 || st.NextOffset < s.next {
		return SegmentInfo{}, fmt.Errorf("write segment of %s: it ends at %d, its batches at %d", st.TP, st.NextOffset, s.next)
	}
	st.Aborted = aborted
	slice := Slice{Slot: st.Slot, TP: st.TP, Pos: HeaderLen, Len: s.out.pos - HeaderLen}
	b := appendSlices(appendHeader(nil, KindSegment, s.origin), []Slice{slice})
	b = u(u(b, int64(s.base)), int64(st.NextOffset-s.base))
	b = u(u(b, s.info.RawSize), s.info.Records)
	b = z(z(b, s.info.FirstTimestamp), s.info.MaxTimestamp)
	b = appendState(appendFrames(b, s.base, s.frames), &st)
	var err error
	s.info.Info, err = s.out.finish(b, KindSegment)
	return s.info, err
}

// FrameDecoder decompresses frames. It is safe for concurrent use.
type FrameDecoder struct{ dec *zstd.Decoder }

// NewFrameDecoder returns a decoder for as many concurrent calls as there are
// processors; more wait.
func NewFrameDecoder() (*FrameDecoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxFrame),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make frame decoder: %w", err)
	}
	return &FrameDecoder{dec: dec}, nil
}

// Decode checks the bytes that frame f has in the object and appends its
// batches to dst. A dst with room for f.RawLen more bytes is not reallocated.
func (d *FrameDecoder) Decode(dst []byte, f Frame, data []byte) ([]byte, error) {
	if len(data) != int(f.Len) || crc32.Checksum(data, castagnoli) != f.CRC {
		return dst, corrupt("frame at offset %d", f.BaseOffset)
	}
	if f.Stored {
		return append(dst, data...), nil
	}
	n := len(dst)
	if cap(dst)-n < int(f.RawLen) {
		dst = append(make([]byte, 0, n+int(f.RawLen)), dst...)
	}
	got, err := d.dec.DecodeAll(data, dst[:n:n+int(f.RawLen)])
	if err != nil || len(got) != n+int(f.RawLen) {
		return dst, corrupt("frame at offset %d: %d bytes of %d: %v", f.BaseOffset, len(got)-n, f.RawLen, err)
	}
	return dst[:len(got)], nil
}

// Close frees the decoder.
func (d *FrameDecoder) Close() { d.dec.Close() }
