package bundle

import (
	"context"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore"
)

// SegmentFooter is the part of a footer that only a segment has.
type SegmentFooter struct {
	Base, End      kafka.Offset // End exclusive
	RawSize        int64
	Records        int64
	FirstTimestamp int64
	MaxTimestamp   int64
	Frames         []Frame
	State          State        // at End
	Aborted        []AbortedTxn // that end in this segment
}

// Object is what a bundle says about itself.
type Object struct {
	Kind    Kind
	Origin  Origin
	Sealer  Origin // of a seal: who put it
	Size    int64
	Sum     uint32
	Slices  []Slice
	States  []State
	Segment *SegmentFooter // of a segment
}

// ReadAt reads from one object as objstore.Store's ReadAt does.
type ReadAt func(ctx context.Context, p []byte, off int64) (n int, size int64, err error)

// At returns the ReadAt of one object of a store.
func At(store objstore.Store, key string) ReadAt {
	return func(ctx context.Context, p []byte, off int64) (int, int64, error) {
		return store.ReadAt(ctx, key, p, off)
	}
}

// Read reads an object's tail and returns what it says. buf is scratch for the tail (nil: 64 KiB).
func Read(ctx context.Context, r ReadAt, buf []byte) (*Object, error) { return nil, nil }

// Parse is Read for an object that lies in memory.
func Parse(obj []byte) (*Object, error) { return nil, nil }

// Verify reads the whole object and checks every byte of it.
func Verify(ctx context.Context, r ReadAt) (*Object, error) { return nil, nil }

// Describe reads what a footer says about a batch from the batch itself (Pos is left 0).
func Describe(b []byte) (Batch, error) { return Batch{}, nil }
