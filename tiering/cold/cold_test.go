package cold

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

var codecs = []record.Codec{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd}

func drawBatch(t *rapid.T) batch {
	b := batch{
		codec: rapid.SampledFrom(codecs).Draw(t, "codec"),
		size:  rapid.SampledFrom([]int{0, 10, 1000, 20_000, 600_000}).Draw(t, "size"),
		seed:  rapid.Uint64().Draw(t, "seed"),
	}
	most := 12
	if b.size > 100_000 {
		most, b.codec = 2, rapid.SampledFrom([]record.Codec{record.None, record.LZ4}).Draw(t, "fast codec")
	}
	for range rapid.IntRange(1, most).Draw(t, "records") {
		b.times = append(b.times, rapid.Int64Range(1000, 1200).Draw(t, "time"))
	}
	return b
}

// drawLog produces and seals at random, and seals what is left.
func drawLog(t *rapid.T, r *rig) {
	for range rapid.IntRange(1, 5).Draw(t, "segments") {
		for range rapid.IntRange(1, 4).Draw(t, "slices") {
			r.produce(t, rapid.SliceOfN(rapid.Custom(drawBatch), 1, 6).Draw(t, "batches")...)
		}
		r.seal(t)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(rt, t.Context(), Options{RAMBytes: rapid.SampledFrom([]int64{1, 1 << 20, 32 << 20}).Draw(rt, "ram")})
		drawLog(rt, r)
		limits := rapid.SampledFrom([]int64{0, 1, 100, 5000, 1 << 20, 1 << 40})
		r.mustReadAll(rt, 0, limits.Draw(rt, "limit"))
		for range 10 {
			from := rapid.Int64Range(0, int64(r.state.NextOffset-1)).Draw(rt, "from")
			r.mustRead(rt, kafka.Offset(from), limits.Draw(rt, "limit"))
		}
	})
}

// A batch that has no room ends the read, even when a smaller one behind it,
// in the next frame, would have.
func TestNoBatchIsLeftOut(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	r.produce(t,
		batch{times: []int64{1}, size: 100}, batch{times: []int64{1}, size: 1000},
		batch{times: []int64{1}, size: 10, codec: record.LZ4}) // a frame of its own
	r.seal(t)
	r.mustReadAll(t, 0, 500)
}

func TestHoles(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	r.add(t, catalog.Segment{TP: r.tp, Base: 0, End: 10})
	r.compacted(t, 10, 20, 13, 15, 16)
	r.compacted(t, 20, 30, 20)
	r.add(t, catalog.Segment{TP: r.tp, Base: 30, End: 40})
	r.compacted(t, 40, 50, 49)
	r.state.SealedEnd = 50
	for from := range kafka.Offset(50) {
		for _, limit := range []int64{1, 700 << 10, 1 << 30} {
			r.mustReadAll(t, from, limit)
		}
	}
	r.add(t, catalog.Segment{TP: r.tp, Base: 50, End: 60})
	for from := range kafka.Offset(10) { // what follows is not sealed: the reader goes on there
		if bufs, next, err := r.Read(t.Context(), r.tp, 50+from, 1, nil); len(bufs) > 0 || next != 60 || err != nil {
			t.Errorf("read of the last placeholder from %d: %d buffers, next %d, %v", 50+from, len(bufs), next, err)
		}
	}
	if _, _, err := r.Read(t.Context(), r.tp, 60, 1, nil); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("read behind it: %v, want ErrNotFound", err)
	}
}

// Many segments, and readers at more places than there is one page for.
func TestPages(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	for range 3 * pageEntries {
		r.produce(t, batch{times: []int64{1, 2}, size: 5})
		r.seal(t)
	}
	r.mustReadAll(t, 0, 1)
	for _, from := range []kafka.Offset{380, 3, 130, 5, 2 * pageEntries, 2*pageEntries - 1} {
		r.mustRead(t, from, 1)
	}
	if n := r.pages.entries; n > 3*pageEntries+maxPages*pageEntries {
		t.Errorf("%d entries kept", n)
	}
	r.produce(t, batch{times: []int64{1}})
	r.seal(t)
	r.mustRead(t, r.state.NextOffset-1, 1) // known without a Forget
	r.Forget(r.tp)
	if r.pages.entries != 0 || len(r.pages.parts) != 0 || r.pages.order.Len() != 0 {
		t.Errorf("%d entries are left after Forget", r.pages.entries)
	}
}

func TestPagesAreBounded(t *testing.T) {
	p := newPages(100)
	for i := range 1000 {
		tp := kafka.TopicPartition{Partition: int32(i % 7)}
		from := kafka.Offset(i * 10)
		p.add(tp, from, []catalog.Segment{{Base: from, End: from + 5}, {Base: from + 5, End: from + 10}})
		if p.entries > 100 {
			t.Fatalf("%d entries", p.entries)
		}
		if s, ok := p.lookup(tp, from+7); !ok || s.Base != from+5 {
			t.Fatalf("page is not found")
		}
	}
	var n int
	for _, pages := range p.parts {
		n += 2 * len(pages)
	}
	if n != p.entries || 2*p.order.Len() != n {
		t.Errorf("%d entries counted, %d there, %d in order", p.entries, n, 2*p.order.Len())
	}
}

func TestMissingObject(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, ctx, Options{RAMBytes: 1}) // nothing is kept but entries and footers
	r.produce(t, batch{times: []int64{5}, size: 9})
	r.seal(t)
	r.mustRead(t, 0, 1)
	old, _, err := r.cat.NewestSegment(ctx, r.tp)
	if err != nil {
		t.Fatal(err)
	}
	// Replaced, as compaction does it: the reader's entry is out of date.
	body, _ := r.store.Object(old.Key)
	next := old
	next.Key = "seg/again"
	if err := r.store.Put(ctx, next.Key, objstore.Buffers{body}); err != nil {
		t.Fatal(err)
	}
	if err := r.cat.SwapSegments(ctx, catalog.Swap{Topic: &r.topic, Old: []catalog.Segment{old}, New: []catalog.Segment{next}}); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Delete(ctx, old.Key); err != nil {
		t.Fatal(err)
	}
	r.mustRead(t, 0, 1)
	if n := r.count0().gone; n != 1 {
		t.Errorf("looked up again %d times, want 1", n)
	}
	// Lost: the catalogue names it and it is not there.
	if err := r.store.Delete(ctx, next.Key); err != nil {
		t.Fatal(err)
	}
	for what, read := range r.lookups() {
		if err := read(); !errors.Is(err, kafka.KafkaStorageError) || errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("%s of a lost object: %v, want KafkaStorageError", what, err)
		}
	}
}

type numbers struct{ loads, ahead, gone int64 }

func (r *rig) count0() numbers {
	return numbers{r.Reader.count.loads.Load(), r.Reader.count.ahead.Load(), r.Reader.count.gone.Load()}
}

// lookups are all ways to read a log of a record at offset 0.
func (r *rig) lookups() map[string]func() error {
	return map[string]func() error{
		"read":          func() error { _, _, err := r.Read(r.ctx, r.tp, 0, 1, nil); return err },
		"timestamp":     func() error { _, _, _, _, err := r.FindTimestamp(r.ctx, r.tp, 1); return err },
		"max timestamp": func() error { _, _, _, _, err := r.MaxTimestamp(r.ctx, r.tp); return err },
	}
}

func TestDamage(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, ctx, Options{})
	r.produce(t, batch{times: []int64{5}, size: 9000})
	seg := r.seal(t)
	body, _ := r.store.Object(seg.Key)
	for _, at := range []int{bundle.HeaderLen + 5, len(body) - 5, len(body) - bundle.TrailerLen - 3} {
		r := newRig(t, ctx, Options{})
		bad := append([]byte{}, body...)
		bad[at] ^= 1
		if err := r.store.Put(ctx, seg.Key, objstore.Buffers{bad}); err != nil {
			t.Fatal(err)
		}
		r.add(t, seg)
		for what, read := range r.lookups() {
			if err := read(); !errors.Is(err, kafka.KafkaStorageError) {
				t.Errorf("%s with byte %d changed: %v, want KafkaStorageError", what, at, err)
			}
		}
		if err := VerifySegment(ctx, r.store, seg); !errors.Is(err, bundle.ErrCorrupt) {
			t.Errorf("verify with byte %d changed: %v, want ErrCorrupt", at, err)
		}
	}
	// Another segment under the key.
	other := seg
	other.TP.Partition = 1
	fresh := newRig(t, ctx, Options{})
	if err := fresh.store.Put(ctx, seg.Key, objstore.Buffers{body}); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Footer(ctx, other); !errors.Is(err, kafka.KafkaStorageError) {
		t.Errorf("footer of another partition: %v, want KafkaStorageError", err)
	}
}

// A store that fails is told as it is, and nothing of the failure is kept.
func TestStoreFails(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	r.produce(t, batch{times: []int64{5}, size: 9})
	r.seal(t)
	for fail := 1; ; fail++ {
		r.Forget(r.tp)
		n := 0
		r.store.SetFault(func(op memstore.Op, _ string) memstore.Fault {
			if n++; n == fail {
				return memstore.Fault{Kind: memstore.Fail}
			}
			return memstore.Fault{}
		})
		_, _, err := r.Read(t.Context(), r.tp, 0, 1, nil)
		r.store.SetFault(nil)
		if n < fail {
			if fail < 2 {
				t.Errorf("only %d calls", n)
			}
			break
		}
		if !errors.Is(err, memstore.ErrInjected) || errors.Is(err, kafka.KafkaStorageError) {
			t.Errorf("call %d failed: %v, want what the store said", fail, err)
		}
	}
	r.mustRead(t, 0, 1)
}

func TestVerifySegment(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, ctx, Options{})
	for _, c := range codecs {
		r.produce(t, batch{codec: c, times: []int64{7, 5}, size: 3000}, batch{times: []int64{9}, size: 600_000})
	}
	seg := r.seal(t)
	if err := VerifySegment(ctx, r.store, seg); err != nil {
		t.Fatal(err)
	}
	if err := VerifySegment(ctx, r.store, catalog.Segment{TP: r.tp, End: 5}); err != nil {
		t.Errorf("placeholder: %v", err)
	}
	for name, change := range map[string]func(s *catalog.Segment){
		"base":    func(s *catalog.Segment) { s.Base++ },
		"end":     func(s *catalog.Segment) { s.End++ },
		"topic":   func(s *catalog.Segment) { s.TP.Topic[3]++ },
		"size":    func(s *catalog.Segment) { s.Size++ },
		"raw":     func(s *catalog.Segment) { s.RawSize-- },
		"records": func(s *catalog.Segment) { s.Records++ },
		"first":   func(s *catalog.Segment) { s.FirstTimestamp++ },
		"max":     func(s *catalog.Segment) { s.MaxTimestamp++ },
	} {
		bad := seg
		change(&bad)
		if err := VerifySegment(ctx, r.store, bad); !errors.Is(err, bundle.ErrCorrupt) {
			t.Errorf("wrong %s: %v, want ErrCorrupt", name, err)
		}
	}
	bad := seg
	bad.Key = "seg/none"
	if err := VerifySegment(ctx, r.store, bad); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("missing object: %v, want ErrNotFound", err)
	}
	r.store.SetFault(func(memstore.Op, string) memstore.Fault { return memstore.Fault{Kind: memstore.Fail} })
	if err := VerifySegment(ctx, r.store, seg); errors.Is(err, bundle.ErrCorrupt) || !errors.Is(err, memstore.ErrInjected) {
		t.Errorf("failing store: %v", err)
	}
}
