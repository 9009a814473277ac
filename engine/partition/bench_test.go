package partition

import (
	"testing"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objcache"
)

func BenchmarkAppend(b *testing.B) {
	r := newRig(Shared{})
	r.Log.o.WAL = discard{}
	batch, h := build(spec{n: 16, size: 1000, pid: 1})
	for b.Loop() {
		if _, err := r.Append(batch, h); err != nil {
			b.Fatal(err)
		}
		h.BaseSequence = int32((int64(h.BaseSequence) + 16) & 0x7fffffff)
	}
}

// BenchmarkRead reads 1 MiB at a random place of 64 MiB in 1 MiB slices of 16 KiB batches.
func BenchmarkRead(b *testing.B) {
	r := newRig(Shared{})
	for range 64 {
		for range 64 {
			batch, h := build(spec{n: 16, size: 1000, pid: -1})
			if _, err := r.Append(batch, h); err != nil {
				b.Fatal(err)
			}
		}
		r.wal.flush(flushed)
	}
	hw := r.Offsets().HighWatermark
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	from := kafka.Offset(0)
	for b.Loop() {
		a := objcache.NewArena()
		res, err := r.Read(b.Context(), from, 1<<20, 0, a)
		if err != nil || len(res.Bufs) == 0 {
			b.Fatal(err)
		}
		a.Release()
		from = (from + 7919) % (hw - 1024)
	}
}
