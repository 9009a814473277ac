package bundle

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore"
)

// SegmentFooter is the part of a footer that only a segment has.
type SegmentFooter struct {
	Base, End      kafka.Offset // End exclusive
	RawSize        int64        // bytes of all batches, uncompressed
	Records        int64
	FirstTimestamp int64        // ms, of the first record
	MaxTimestamp   int64        // ms
	Frames         []Frame      // the sparse offset and time index
	State          State        // at End
	Aborted        []AbortedTxn // that end in this segment; State.Aborted is the same
}

// Object is what a bundle says about itself.
type Object struct {
	Kind    Kind
	Origin  Origin
	Sealer  Origin         // of a seal: who put it
	Size    int64          // bytes of the object
	Sum     uint32         // CRC-32C of the footer, which holds sums of all the rest
	Slices  []Slice        // in the order of the footer: by slot in a checkpoint
	States  []State        // of a checkpoint, by slot
	Segment *SegmentFooter // of a segment
}

// ReadAt reads from one object as objstore.Store's ReadAt does: a negative
// off counts from the end.
type ReadAt func(ctx context.Context, p []byte, off int64) (n int, size int64, err error)

// At returns the ReadAt of one object of a store.
func At(store objstore.Store, key string) ReadAt {
	return func(ctx context.Context, p []byte, off int64) (int, int64, error) {
		return store.ReadAt(ctx, key, p, off)
	}
}

// Read reads an object's tail, and once more if the footer is longer than the
// first read, and returns what it says. It checks all of the tail; Verify
// checks the slices too. buf is scratch for the first read, nothing of the
// result lies in it; nil allocates 64 KiB. Errors: ErrCorrupt, those of r.
func Read(ctx context.Context, r ReadAt, buf []byte) (*Object, error) {
	if len(buf) < HeaderLen+TrailerLen {
		buf = make([]byte, tailGuess)
	}
	tail, size, err := readTail(ctx, r, buf)
	if err != nil {
		return nil, err
	}
	t, err := parseTrailer(tail, size)
	if err != nil {
		return nil, err
	}
	if need := t.footerLen + TrailerLen; need > int64(len(tail)) {
		again, size2, err := readTail(ctx, r, make([]byte, need))
		switch {
		case err != nil:
			return nil, err
		case size2 != size || int64(len(again)) != need:
			return nil, corrupt("object changed its size from %d to %d", size, size2)
		}
		tail = again
	}
	footer := tail[int64(len(tail))-TrailerLen-t.footerLen : len(tail)-TrailerLen]
	return parseFooter(t, footer, size)
}

func readTail(ctx context.Context, r ReadAt, buf []byte) ([]byte, int64, error) {
	n, size, err := r(ctx, buf, -int64(len(buf)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, fmt.Errorf("read bundle's tail: %w", err)
	}
	return buf[:n], size, nil
}

// Parse is Read for an object that lies in memory.
func Parse(obj []byte) (*Object, error) {
	size := int64(len(obj))
	t, err := parseTrailer(obj, size)
	if err != nil {
		return nil, err
	}
	k, o, err := parseHeader(obj)
	if err != nil {
		return nil, err
	}
	out, err := parseFooter(t, obj[t.footerPos:size-TrailerLen], size)
	if err == nil && (k != out.Kind || o != out.Origin) {
		return nil, corrupt("header and footer name different writers")
	}
	return out, err
}

func parseFooter(t trailer, footer []byte, size int64) (*Object, error) {
	if crc32.Checksum(footer, castagnoli) != t.sum {
		return nil, corrupt("footer checksum")
	}
	k, origin, err := parseHeader(footer)
	if err != nil {
		return nil, err
	}
	if k != t.kind {
		return nil, corrupt("footer is of kind %d, trailer of %d", k, t.kind)
	}
	o := &Object{Kind: k, Origin: origin, Size: size, Sum: t.sum}
	c := &cursor{b: footer[HeaderLen:]}
	if k == KindSeal {
		o.Sealer = parseOrigin(c.bytes(originLen))
	} else {
		o.Slices = c.slices(t.footerPos)
	}
	switch k {
	case KindCheckpoint:
		o.States = c.states()
	case KindSegment:
		if len(o.Slices) != 1 || o.Slices[0].Batches != nil {
			c.fail("segment of %d slices", len(o.Slices))
			break
		}
		o.Segment = c.segment(o.Slices[0])
	}
	if k == KindWAL || k == KindCheckpoint {
		checkBatches(c, o.Slices)
	}
	if len(c.b) > 0 {
		c.fail("%d bytes behind the footer", len(c.b))
	}
	if c.err != nil {
		return nil, c.err
	}
	return o, nil
}

// checkBatches refuses slices that list no batches, where they must.
func checkBatches(c *cursor, slices []Slice) {
	for i := range slices {
		if slices[i].Batches == nil {
			c.fail("slice %d lists no batches", i)
		}
	}
}
