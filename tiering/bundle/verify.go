package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
)

// Verify reads the whole object, in order, and checks every byte of it: that
// nothing lies between its parts, the sums of slices and frames, each batch's
// CRC, and that footer and batches say the same.
func Verify(ctx context.Context, r ReadAt) (*Object, error) {
	o, err := Read(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	read := func(p []byte, off int64) (int, int64, error) { return r(ctx, p, off) }
	v := &verifier{read: read, window: make([]byte, min(o.Size, 4<<20))}
	head, err := v.next(HeaderLen)
	if err != nil {
		return nil, err
	}
	if k, origin, err := parseHeader(head); err != nil || k != o.Kind || origin != o.Origin {
		return nil, cmp.Or(err, corrupt("header and footer name different writers"))
	}
	if o.Kind == KindSegment {
		return o, v.segment(o.Segment)
	}
	placed := slices.Clone(o.Slices)
	slices.SortFunc(placed, func(a, b Slice) int { return cmp.Compare(a.Pos, b.Pos) })
	for _, s := range placed {
		if err := v.slice(s); err != nil {
			return nil, fmt.Errorf("verify slice of %s at %d: %w", s.TP, s.Pos, err)
		}
	}
	return o, nil
}

// verifier reads an object from its beginning through a window.
type verifier struct {
	read   func(p []byte, off int64) (int, int64, error)
	pos    int64 // of rest, in the object
	rest   []byte
	window []byte
}

// next returns the next n bytes, valid until the next call.
func (v *verifier) next(n int) ([]byte, error) {
	if len(v.rest) < n {
		if len(v.window) < n { // n was checked against the object's size
			v.window = make([]byte, n)
		}
		got, _, err := v.read(v.window, v.pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read bundle: %w", err)
		}
		if v.rest = v.window[:got]; got < n {
			return nil, corrupt("object ends at %d", v.pos+int64(got))
		}
	}
	p := v.rest[:n]
	v.rest, v.pos = v.rest[n:], v.pos+int64(n)
	return p, nil
}

func (v *verifier) slice(s Slice) error {
	if s.Pos != v.pos {
		return corrupt("it begins behind a gap at %d", v.pos)
	}
	sum := uint32(0)
	for _, m := range s.Batches {
		b, err := v.next(int(m.Len))
		if err != nil {
			return err
		}
		if err := checkBatch(b, m); err != nil {
			return err
		}
		sum = headSum(sum, b)
	}
	if sum != s.Sum {
		return corrupt("slice checksum")
	}
	return nil
}

func (v *verifier) segment(g *SegmentFooter) error {
	dec, err := NewFrameDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	var raw []byte
	next, records := g.Base, int64(0)
	for _, f := range g.Frames {
		data, err := v.next(int(f.Len))
		if err == nil {
			raw, err = dec.Decode(raw[:0], f, data)
		}
		if err == nil && next > f.BaseOffset {
			err = corrupt("frame begins at %d, the one before ends at %d", f.BaseOffset, next)
		}
		if err == nil {
			next, err = checkFrame(raw, f, &records)
		}
		if err != nil {
			return fmt.Errorf("verify frame at offset %d: %w", f.BaseOffset, err)
		}
	}
	if next > g.End || records != g.Records {
		return corrupt("segment of %d records up to %d, footer says %d up to %d", records, next, g.Records, g.End)
	}
	return nil
}

// checkFrame checks the batches of a frame and returns the offset behind them.
func checkFrame(raw []byte, f Frame, records *int64) (kafka.Offset, error) {
	next, first, maxTime := f.BaseOffset, true, int64(0)
	for len(raw) > 0 {
		if len(raw) < minBatch || headLen(raw) < minBatch || headLen(raw) > int64(len(raw)) {
			return 0, corrupt("batch behind offset %d is cut off", next)
		}
		b := raw[:headLen(raw)]
		raw = raw[len(b):]
		m, err := Describe(b)
		if err == nil {
			err = checkCRC(b)
		}
		if err != nil {
			return 0, err
		}
		if m.BaseOffset < next || first && m.BaseOffset != f.BaseOffset {
			return 0, corrupt("batch at offset %d, want %d", m.BaseOffset, next)
		}
		if first || m.MaxTimestamp > maxTime {
			maxTime = m.MaxTimestamp
		}
		next, first = m.LastOffset()+1, false
		*records += headRecords(b)
	}
	if maxTime != f.MaxTime {
		return 0, corrupt("largest timestamp is %d, footer says %d", maxTime, f.MaxTime)
	}
	return next, nil
}
