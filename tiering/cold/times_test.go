package cold

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
)

// eachRecord calls fn with each record's offset and time until it returns false.
func eachRecord(t failer, log [][]byte, fn func(off kafka.Offset, at int64) bool) {
	for _, b := range log {
		h, err := record.ParseHeader(b)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		for rec, err := range record.Records(b, record.MaxDecompressed) {
			if err != nil {
				t.Fatalf("records: %v", err)
			}
			if !fn(h.BaseOffset+kafka.Offset(rec.OffsetDelta), h.FirstTimestamp+rec.TimestampDelta) {
				return
			}
		}
	}
}

func TestTimes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(rt, t.Context(), Options{})
		drawLog(rt, r)
		r.add(rt, catalog.Segment{TP: r.tp, Base: r.state.NextOffset, End: r.state.NextOffset + 5, MaxTimestamp: -1})
		for range 20 {
			ts := rapid.Int64Range(998, 1202).Draw(rt, "time")
			var want found
			eachRecord(rt, r.log, func(off kafka.Offset, at int64) bool {
				if at >= ts {
					want = found{off: off, at: at, ok: true}
				}
				return at < ts
			})
			var got found
			var err error
			got.off, got.at, got.epoch, got.ok, err = r.FindTimestamp(t.Context(), r.tp, ts)
			if err != nil || got != want {
				rt.Fatalf("find time %d: %+v, %v, want %+v", ts, got, err, want)
			}
		}
		var want, got found
		eachRecord(rt, r.log, func(off kafka.Offset, at int64) bool {
			if at > want.at {
				want = found{off: off, at: at, ok: true}
			}
			return true
		})
		var err error
		got.off, got.at, got.epoch, got.ok, err = r.MaxTimestamp(t.Context(), r.tp)
		if err != nil || got != want {
			rt.Fatalf("largest time: %+v, %v, want %+v", got, err, want)
		}
	})
}

func TestTimesOfNothing(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	r.add(t, catalog.Segment{TP: r.tp, Base: 0, End: 10, MaxTimestamp: 99})
	if _, _, _, ok, err := r.FindTimestamp(t.Context(), r.tp, 5); ok || err != nil {
		t.Errorf("a time in a placeholder: %v, %v", ok, err)
	}
	if _, _, _, ok, err := r.MaxTimestamp(t.Context(), r.tp); ok || err != nil {
		t.Errorf("the largest time of a placeholder: %v, %v", ok, err)
	}
}

// More entries than a walk reads at once.
func TestTimesOverPages(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	for i := range kafka.Offset(walkEntries + 5) {
		r.add(t, catalog.Segment{TP: r.tp, Base: i, End: i + 1})
	}
	r.state.NextOffset = walkEntries + 5
	r.produce(t, batch{times: []int64{77}})
	r.seal(t)
	if off, at, _, ok, err := r.FindTimestamp(t.Context(), r.tp, 70); off != walkEntries+5 || at != 77 || !ok || err != nil {
		t.Errorf("found offset %d, time %d, %v, %v", off, at, ok, err)
	}
}

func TestAborted(t *testing.T) {
	r := newRig(t, t.Context(), Options{})
	seal := func(lastStable kafka.Offset, ended ...bundle.AbortedTxn) {
		r.produce(t, batch{times: make([]int64, 10)})
		r.state.LastStable, r.state.Aborted = lastStable, ended
		r.seal(t)
	}
	a := bundle.AbortedTxn{ProducerID: 1, FirstOffset: 2, LastOffset: 15, LastStableOffset: 2}
	b := bundle.AbortedTxn{ProducerID: 2, FirstOffset: 5, LastOffset: 31, LastStableOffset: 5}
	c := bundle.AbortedTxn{ProducerID: 1, FirstOffset: 33, LastOffset: 35, LastStableOffset: 32}
	seal(2)
	seal(5, a)
	r.add(t, catalog.Segment{TP: r.tp, Base: 20, End: 30})
	r.state.NextOffset = 30
	seal(40, b, c)
	seal(45) // one that begins at 45 is open at the end
	for _, q := range []struct {
		from, to kafka.Offset
		want     []bundle.AbortedTxn
	}{
		{0, 2, nil},
		{0, 3, []bundle.AbortedTxn{a}},
		{0, 10, []bundle.AbortedTxn{a, b}},
		{10, 20, []bundle.AbortedTxn{a, b}},
		{16, 20, []bundle.AbortedTxn{b}},
		{30, 40, []bundle.AbortedTxn{b, c}},
		{32, 34, []bundle.AbortedTxn{c}},
		{40, 50, nil},
		{0, 50, []bundle.AbortedTxn{a, b, c}},
		{60, 70, nil},
	} {
		got, err := r.Aborted(t.Context(), r.tp, q.from, q.to)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(q.want, got); d != "" {
			t.Errorf("from %d to %d (-want +got):\n%s", q.from, q.to, d)
		}
	}
	// The walk ends where the last stable offset has passed, not at the log's end.
	loaded := r.footers.size()
	fresh, err := New(r.o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Aborted(t.Context(), r.tp, 0, 2); err != nil {
		t.Fatal(err)
	}
	if n := fresh.footers.size(); n == 0 || n >= loaded {
		t.Errorf("footers of %d bytes were read of %d", n, loaded)
	}
}
