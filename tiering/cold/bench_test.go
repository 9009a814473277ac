package cold

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore/filestore"
)

// textBatch builds a batch of records of about 1 KiB of JSON-like text.
func textBatch(rng *rand.Rand, base kafka.Offset, records int) []byte {
	b := record.NewBuilder(record.None)
	for i := range records {
		v := fmt.Appendf(nil, `{"id":%d,"user":"user-%d","action":"click","tags":[`, int(base)+i, rng.IntN(1e6))
		for len(v) < 1000 {
			v = fmt.Appendf(v, `"%x",`, rng.Uint64())
		}
		b.Append(int64(i), nil, append(v, "]}"...))
	}
	out, err := b.Bytes()
	if err != nil {
		panic(err)
	}
	record.Stamp(out, base, 0)
	return out
}

// BenchmarkRead reads segments in sequence, from zstd frames in files, 1 MiB
// at a time, with too little RAM to keep any.
func BenchmarkRead(b *testing.B) {
	r := newRig(b, b.Context(), Options{RAMBytes: 32 << 20})
	disk, err := vfs.Disk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	store, err := filestore.Open(disk, "objects")
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	size := writeText(b, r, store)
	cache, err := objcache.New(objcache.Options{Store: store})
	if err != nil {
		b.Fatal(err)
	}
	r.o.Cache, r.o.Store = cache, store
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	b.SetBytes(size)
	for b.Loop() {
		for from := kafka.Offset(0); from < r.state.NextOffset; {
			_, next, err := r.Read(ctx, r.tp, from, 1<<20, nil)
			if err != nil {
				b.Fatal(err)
			}
			from = next
		}
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// writeText seals 128 MiB in two segments of 16 KiB batches.
func writeText(b *testing.B, r *rig, store *filestore.Store) (size int64) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2 {
		base := r.state.NextOffset
		seg := catalog.Segment{TP: r.tp, Base: base, Key: fmt.Sprintf("seg/%d", base)}
		var info bundle.SegmentInfo
		err := store.Put(b.Context(), seg.Key, segmentBody(func(w *bundle.SegmentWriter) (err error) {
			for n := 0; n < 64<<20; {
				batch := textBatch(rng, r.state.NextOffset, 16)
				m, err := bundle.Describe(batch)
				if err != nil {
					return err
				}
				if err := w.Batch(batch, m); err != nil {
					return err
				}
				r.state.NextOffset += 16
				n += len(batch)
			}
			info, err = w.Close(r.state, nil)
			return err
		}))
		if err != nil {
			b.Fatal(err)
		}
		seg.End, seg.Size, seg.RawSize, seg.FooterLen = r.state.NextOffset, info.Size, info.RawSize, info.FooterLen
		r.add(b, seg)
		size += info.RawSize
		b.Logf("%d bytes in %d", info.RawSize, info.Size)
	}
	return size
}

type segmentBody func(w *bundle.SegmentWriter) error

// WriteTo writes the segment.
func (fn segmentBody) WriteTo(w io.Writer) (int64, error) {
	sw, err := bundle.NewSegmentWriter(w, bundle.Origin{}, 0)
	if err != nil {
		return 0, err
	}
	return 0, fn(sw)
}
