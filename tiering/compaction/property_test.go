package compaction

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka/record"
)

// TestAsTheModel compacts any history at any moments and compares each time
// what can be read, from each offset, with a simple model of Kafka's cleaner.
func TestAsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		settings := map[string]string{
			"log.cleaner.min.compaction.lag.ms": strconv.Itoa(rapid.SampledFrom([]int{0, 0, 500}).Draw(rt, "lag")),
		}
		r := newRig(t.Context(), rt, settings)
		r.cfg.CleanerBufferBytes = int64(keyBytes * rapid.SampledFrom([]int{1, 2, 100, 100}).Draw(rt, "keys"))
		r.segmentBytes = rapid.SampledFrom([]int64{1, 300, 600, 1 << 20}).Draw(rt, "segment.bytes")
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			step(rt, r, i)
		}
		r.turn()
		r.check()
		before := summary(r.entries())
		r.job.o.Config().CleanerBufferBytes *= 2
		if n := r.turn(); n > 0 {
			rt.Fatalf("%d passes over what is clean", n)
		}
		if diff := cmp.Diff(before, summary(r.entries())); diff != "" {
			rt.Fatalf("cleaning twice changed something:\n%s", diff)
		}
	})
}

func step(rt *rapid.T, r *rig, i int) {
	pid := rapid.SampledFrom([]int64{-1, -1, 1, 2, 100, 101}).Draw(rt, "pid")
	switch rapid.SampledFrom([]string{"produce", "produce", "produce", "produce", "marker", "seal", "seal", "turn", "wait", "restart"}).Draw(rt, "step") {
	case "produce":
		var recs []kv
		for j := range rapid.IntRange(1, 4).Draw(rt, "records") {
			key := text(rapid.SampledFrom([]string{"a", "b", "c", "d", "null"}).Draw(rt, "key"))
			value := fmt.Appendf(nil, "%d.%d", i, j)
			if rapid.IntRange(0, 3).Draw(rt, "tombstone") == 0 {
				value = nil
			}
			recs = append(recs, kv{key, value})
		}
		codec := rapid.SampledFrom([]record.Codec{record.None, record.LZ4, record.Zstd, record.Gzip, record.Snappy}).Draw(rt, "codec")
		r.produce(codec, pid, r.now.UnixMilli()-int64(rapid.IntRange(0, 100).Draw(rt, "age")), recs...)
	case "marker":
		r.marker(pid, rapid.Bool().Draw(rt, "commit"))
	case "seal":
		r.seal()
	case "turn":
		r.turn()
		r.check()
	case "wait":
		r.now = r.now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(rt, "ms")) * time.Millisecond)
	case "restart":
		r.owner.Flush()
		r.owner.Restart()
	}
}
