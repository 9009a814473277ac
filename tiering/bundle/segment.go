package bundle

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// SegmentInfo tells what a SegmentWriter has written.
type SegmentInfo struct {
	Info
	RawSize        int64 // bytes of all batches, uncompressed
	Records        int64
	FirstTimestamp int64 // ms, of the first batch's first record
	MaxTimestamp   int64 // ms
}

// SegmentWriter streams a sealed segment.
type SegmentWriter struct{}

// NewSegmentWriter begins a segment on w.
func NewSegmentWriter(w io.Writer, o Origin, level zstd.EncoderLevel) (*SegmentWriter, error) {
	return nil, nil
}

// Reset begins another segment with the same encoder and buffers.
func (s *SegmentWriter) Reset(w io.Writer, o Origin) {}

// Batch adds one whole batch, next in offset order.
func (s *SegmentWriter) Batch(b []byte, meta Batch) error { return nil }

// Close writes footer and trailer.
func (s *SegmentWriter) Close(st State, aborted []AbortedTxn) (SegmentInfo, error) {
	return SegmentInfo{}, nil
}

// FrameDecoder decompresses frames. It is safe for concurrent use.
type FrameDecoder struct{}

// NewFrameDecoder returns a decoder.
func NewFrameDecoder() (*FrameDecoder, error) { return nil, nil }

// Decode appends the batches of frame f, whose bytes in the object are data, to dst.
func (d *FrameDecoder) Decode(dst []byte, f Frame, data []byte) ([]byte, error) { return nil, nil }

// Close frees the decoder.
func (d *FrameDecoder) Close() {}
