package record

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka"
)

// seen is a record as a consumer sees it.
type seen struct {
	Offset     kafka.Offset
	Time       int64
	Key, Value []byte
	Headers    []KV
}

func seenIn(t interface{ Fatal(...any) }, b []byte) (Header, []seen) {
	h, err := ParseHeader(b)
	if err == nil {
		err = VerifyCRC(b)
	}
	if err != nil || h.Size() != len(b) {
		t.Fatal(h, err)
	}
	var all []seen
	for r, err := range Records(b, 1<<20) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, seen{h.OffsetOf(&r), h.TimeOf(&r), r.Key, r.Value, r.Headers})
	}
	return h, all
}

// Some records of a batch are taken out, several times over: what is left is
// as it was, and so are offsets, producer and sequence.
func TestFilter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBuilder(rapid.SampledFrom([]Codec{None, Gzip, Snappy, LZ4, Zstd}).Draw(t, "codec"))
		b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.BaseOffset, b.LeaderEpoch = 7, 3, 2147483647, 1000, 5
		b.Transactional = rapid.Bool().Draw(t, "transactional")
		for i := range rapid.IntRange(1, 6).Draw(t, "records") {
			ts := rapid.Int64Range(0, 1<<41).Draw(t, "time")
			b.Append(ts, fmt.Append(nil, i), rapid.SampledFrom([][]byte{nil, {}, []byte("v")}).Draw(t, "value"), KV{"h", []byte{byte(i)}})
		}
		batch, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "append time") {
			SetLogAppendTime(batch, 77)
		}
		var f Filter
		for range rapid.IntRange(1, 3).Draw(t, "times") {
			before, all := seenIn(t, batch)
			var want []seen
			kept, err := f.Select(batch, 1<<20, func(r *Record) bool {
				keep := rapid.Bool().Draw(t, "keep")
				if keep {
					want = append(want, all[0])
				}
				all = all[1:]
				return keep
			})
			if err != nil || int(kept) != len(want) {
				t.Fatal(kept, len(want), err)
			}
			if kept == 0 {
				return
			}
			horizon := rapid.SampledFrom([]int64{-1, -1, 0, 1 << 42}).Draw(t, "horizon")
			if batch, err = f.Batch(horizon); err != nil {
				t.Fatal(err)
			}
			after, got := seenIn(t, batch)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("other records (-want +got):\n%s", diff)
			}
			wantHorizon, stamped := before.DeleteHorizon()
			if horizon >= 0 {
				wantHorizon, stamped = horizon, true
			}
			if at, ok := after.DeleteHorizon(); ok != stamped || ok && at != wantHorizon {
				t.Fatalf("horizon %d %v, want %d %v", at, ok, wantHorizon, stamped)
			}
			if !before.LogAppendTime() {
				before.MaxTimestamp = -1
				for _, r := range want {
					before.MaxTimestamp = max(before.MaxTimestamp, r.Time)
				}
			}
			before.NumRecords = kept
			same(t, before, after)
		}
	})
}

// same compares all of two headers that compaction keeps.
func same(t *rapid.T, want, got Header) {
	for _, h := range []*Header{&want, &got} {
		h.Length, h.CRC, h.FirstTimestamp = 0, 0, 0
		h.Attributes &^= attrDeleteHorizon
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("another header (-want +got):\n%s", diff)
	}
}

func TestEmptied(t *testing.T) {
	b, err := Marker(9, 4, true, 2, time.UnixMilli(5))
	if err != nil {
		t.Fatal(err)
	}
	Stamp(b, 100, 3)
	before, _ := seenIn(t, b)
	h, recs := seenIn(t, Emptied(before))
	want := before
	want.NumRecords, want.FirstTimestamp, want.MaxTimestamp, want.Length, want.CRC = 0, -1, -1, h.Length, h.CRC
	if len(recs) > 0 || h != want {
		t.Errorf("%+v with %d records, want %+v", h, len(recs), want)
	}
	if _, _, ok, err := FindTimestamp(Emptied(before), 0); ok || err != nil {
		t.Errorf("a time is found in it: %v", err)
	}
}

func TestFilterRefuses(t *testing.T) {
	b := NewBuilder(None)
	b.Append(1, []byte("k"), []byte("v"))
	batch, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	batch[HeaderLen]++ // the record's length
	var f Filter
	if _, err := f.Select(batch, 1<<20, func(*Record) bool { return true }); err == nil {
		t.Error("a record that is cut off is taken")
	}
}
