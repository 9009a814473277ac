package cold

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// VerifySegment reads a segment's whole object and checks every byte of it:
// checksums of footer, frames and batches, offsets and counts, and that the
// catalogue's entry says the same. nil for an empty placeholder. Errors that say what is wrong
// wrap bundle.ErrCorrupt or objstore.ErrNotFound; others are the store's.
func VerifySegment(ctx context.Context, store objstore.Store, seg catalog.Segment) error {
	return checkSegment(seg, func() (*bundle.Object, error) { return bundle.Verify(ctx, bundle.At(store, seg.Key)) })
}

// CheckSegment is VerifySegment for the footer alone: it does not read records.
func CheckSegment(ctx context.Context, store objstore.Store, seg catalog.Segment) error {
	return checkSegment(seg, func() (*bundle.Object, error) { return bundle.Read(ctx, bundle.At(store, seg.Key), nil) })
}

func checkSegment(seg catalog.Segment, read func() (*bundle.Object, error)) error {
	if seg.Key == "" {
		return nil
	}
	obj, err := read()
	if err == nil {
		err = matches(obj, seg)
	}
	if err == nil {
		err = sameNumbers(obj, seg)
	}
	if err != nil {
		return fmt.Errorf("verify segment %s: %w", seg.Key, err)
	}
	return nil
}

func sameNumbers(obj *bundle.Object, seg catalog.Segment) error {
	g := obj.Segment
	var errs []error
	for _, n := range []struct {
		what      string
		got, want int64
	}{
		{"bytes", obj.Size, seg.Size},
		{"bytes of batches", g.RawSize, seg.RawSize},
		{"records", g.Records, seg.Records},
		{"as first time", g.FirstTimestamp, seg.FirstTimestamp},
		{"as largest time", g.MaxTimestamp, seg.MaxTimestamp},
	} {
		if n.got != n.want {
			errs = append(errs, fmt.Errorf("%w: it has %d %s, the catalogue says %d", bundle.ErrCorrupt, n.got, n.what, n.want))
		}
	}
	return errors.Join(errs...)
}
