package filestore_test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
)

// BenchmarkPut puts objects as a WAL does, with one or four puts in flight,
// as files of their own and into packs. It keeps the last of them, as trimming does.
func BenchmarkPut(b *testing.B) {
	for _, packed := range []string{"files/", "wal/"} {
		for _, size := range []int{16 << 10, 96 << 10, 192 << 10, 1 << 20} {
			for _, flight := range []int{1, 4} {
				b.Run(fmt.Sprintf("%s%dKiB/%d", packed, size>>10, flight), func(b *testing.B) {
					benchmarkPut(b, packed, size, flight)
				})
			}
		}
	}
}

func benchmarkPut(b *testing.B, prefix string, size, flight int) {
	d, err := vfs.Disk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	d.Direct = true
	s, err := filestore.Open(d, "o", "wal/")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	body := objstore.Buffers{make([]byte, size/3), make([]byte, size-size/3)}
	key := func(n int64) string { return fmt.Sprintf("%s%020d", prefix, n) }
	keep := int64(256 << 20 / size)
	b.SetBytes(body.Size())
	before := cpuSeconds(b)
	var seq atomic.Int64
	b.SetParallelism(max(1, flight/2)) // on two cores
	put := func() {
		n := seq.Add(1)
		if err := s.Put(b.Context(), key(n), body); err != nil {
			b.Fatal(err)
		}
		if n > keep && n%64 == 0 {
			var old []string
			for i := range int64(64) {
				old = append(old, key(n-keep-i))
			}
			if err := s.Delete(b.Context(), old...); err != nil {
				b.Fatal(err)
			}
		}
	}
	if flight == 1 {
		for b.Loop() {
			put()
		}
	} else {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				put()
			}
		})
	}
	b.ReportMetric((cpuSeconds(b)-before)*1e3/float64(b.N), "cpu-ms/put")
}

// cpuSeconds returns the processor time of this process so far.
func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
