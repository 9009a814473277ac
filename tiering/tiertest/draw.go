package tiertest

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

// Batch builds a batch of n records, with a mark that makes each its own.
func Batch(codec record.Codec, mark, n, size int) []byte {
	b := record.NewBuilder(codec)
	for i := range n {
		b.Append(int64(1000+mark+i), fmt.Append(nil, "key-", mark, "-", i), fmt.Appendf(nil, "%0*d", max(1, size), mark),
			record.KV{Key: "mark", Value: fmt.Append(nil, mark)})
	}
	return built(b)
}

func built(b *record.Builder) []byte {
	out, err := b.Bytes()
	if err != nil {
		panic(err)
	}
	return out
}

// Step draws and does one of an owner's steps; mark is one for each call.
func Step(t *rapid.T, o *Owner, mark int) {
	l := o.Logs[rapid.IntRange(0, len(o.Logs)-1).Draw(t, "log")]
	codec := rapid.SampledFrom([]record.Codec{record.None, record.None, record.LZ4, record.Zstd}).Draw(t, "codec")
	switch rapid.SampledFrom([]string{"append", "append", "append", "txn", "marker", "flush", "flush", "seal", "checkpoint", "merge", "restart", "remove", "start"}).Draw(t, "step") {
	case "append":
		o.Append(l, Batch(codec, mark, rapid.IntRange(1, 5).Draw(t, "records"), rapid.SampledFrom([]int{1, 100, 200_000}).Draw(t, "size")))
	case "txn":
		b := record.NewBuilder(codec)
		b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional = int64(rapid.IntRange(1, 3).Draw(t, "pid")), 0, int32(mark), true
		b.Append(int64(1000+mark), nil, fmt.Append(nil, "txn-", mark))
		o.Append(l, built(b))
	case "marker":
		m, err := record.Marker(int64(rapid.IntRange(1, 3).Draw(t, "pid")), 0, rapid.Bool().Draw(t, "commit"), 1, time.UnixMilli(int64(1000+mark)))
		if err != nil {
			t.Fatalf("build marker: %v", err)
		}
		o.Append(l, m)
	case "flush":
		o.Flush()
	case "seal":
		o.Seal(l)
	case "checkpoint":
		o.Checkpoint(false)
	case "merge":
		o.Checkpoint(true)
	case "restart":
		o.Restart()
	case "remove":
		o.Remove(l, rapid.IntRange(1, 2).Draw(t, "segments"))
	case "start":
		if l.End() > l.Start {
			o.SetStart(l, rapid.SampledFrom([]kafka.Offset{l.Start + 1, l.Start + 1, l.End() - 1, l.End()}).Draw(t, "offset"))
		}
	}
}
