package compaction

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	readBytes   = 4 << 20          // of frames, read at once
	callTimeout = 30 * time.Second // of one call of a port

	verifyTimeout = 5 * time.Minute // of reading an object back
)

// bounded gives one call its deadline.
func bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return fn(ctx)
}

// source reads the batches of segments, past the caches: each is read once or
// twice and then gone. It is used by one goroutine and keeps its buffers.
type source struct {
	store objstore.Store
	dec   *bundle.FrameDecoder
	pace  func(ctx context.Context, n int64) error
	read  int64 // bytes, of objects
	data  []byte
	raw   []byte
}

// footer reads a segment's footer. errors.Is cold.ErrGone: its entry is out of date.
func (s *source) footer(ctx context.Context, seg catalog.Segment) (g *bundle.SegmentFooter, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		g, err = cold.ReadFooter(ctx, s.store, seg)
		return err
	})
	return g, err
}

// batches gives each batch of a segment to fn, which does not keep it, in
// order, from the frame that holds an offset on. Each batch's checksum is verified; all
// of the segment's batches together are counted. Errors: errors.Is ErrCorrupt, bundle.ErrCorrupt,
// those of record and fn.
func (s *source) batches(ctx context.Context, seg catalog.Segment, from kafka.Offset, fn func(b []byte) error) error {
	g, err := s.footer(ctx, seg)
	if err != nil {
		return err
	}
	frames := g.Frames
	for len(frames) > 1 && frames[1].BaseOffset <= from {
		frames = frames[1:]
	}
	whole := len(frames) == len(g.Frames)
	var records, size int64
	for len(frames) > 0 {
		n := run(frames)
		if err := s.load(ctx, seg.Key, frames[:n]); err != nil {
			return fmt.Errorf("read segment %s: %w", seg.Key, err)
		}
		frames = frames[n:]
		for b, err := range record.Split(s.raw) {
			if err == nil {
				err = record.VerifyCRC(b)
			}
			if err != nil {
				return fmt.Errorf("read segment %s: %w", seg.Key, err)
			}
			h, _ := record.ParseHeader(b) // Split has
			records, size = records+int64(h.NumRecords), size+int64(len(b))
			if h.BaseOffset < seg.Base || h.LastOffset() >= seg.End {
				return wrong("%s: offsets %d to %d in a segment from %d to %d", seg.Key, h.BaseOffset, h.LastOffset(), seg.Base, seg.End)
			}
			if err := fn(b); err != nil {
				return err
			}
		}
	}
	if whole && (records != seg.Records || size != seg.RawSize) {
		return wrong("%s: %d records in %d bytes where %d in %d should be", seg.Key, records, size, seg.Records, seg.RawSize)
	}
	return nil
}

// run returns how many frames are read at once.
func run(frames []bundle.Frame) int {
	n, bytes, raw := 1, int64(frames[0].Len), int64(frames[0].RawLen)
	for n < len(frames) {
		bytes, raw = bytes+int64(frames[n].Len), raw+int64(frames[n].RawLen)
		if bytes > readBytes || raw > 4*readBytes {
			break
		}
		n++
	}
	return n
}

// load reads a run of frames and decodes them into raw. Their lengths were
// checked against the object's size when the footer was read.
func (s *source) load(ctx context.Context, key string, frames []bundle.Frame) error {
	first, last := frames[0], frames[len(frames)-1]
	n := last.Pos + int64(last.Len) - first.Pos
	if err := s.pace(ctx, n); err != nil {
		return fmt.Errorf("keep the pace: %w", err)
	}
	if int64(cap(s.data)) < n {
		s.data = make([]byte, n)
	}
	data := s.data[:n]
	err := bounded(ctx, func(ctx context.Context) error {
		got, _, err := s.store.ReadAt(ctx, key, data, first.Pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if int64(got) != n {
			return wrong("%d bytes at %d where %d should be", got, first.Pos, n)
		}
		return nil
	})
	if errors.Is(err, objstore.ErrNotFound) {
		err = cold.ErrGone
	}
	if err != nil {
		return err
	}
	s.read += n
	s.raw = s.raw[:0]
	for _, f := range frames {
		if s.raw, err = s.dec.Decode(s.raw, f, data[f.Pos-first.Pos:][:f.Len]); err != nil {
			return err
		}
	}
	return nil
}
