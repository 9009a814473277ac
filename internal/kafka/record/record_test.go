package record

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

func build(t testing.TB, b *Builder) []byte {
	t.Helper()
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRoundTrip builds batches of any records in every codec and reads them back.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		b := NewBuilder(codec)
		b.ProducerID, b.ProducerEpoch, b.BaseSequence = 7, 3, 9
		nullable := rapid.Custom(func(t *rapid.T) []byte {
			if rapid.Bool().Draw(t, "null") {
				return nil
			}
			return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes")...)
		})
		var want []Record
		first := rapid.Int64Range(0, 1<<41).Draw(t, "first")
		for i := range rapid.IntRange(1, 20).Draw(t, "count") {
			r := Record{TimestampDelta: rapid.Int64Range(-1000, 1<<20).Draw(t, "delta"), OffsetDelta: int32(i), Key: nullable.Draw(t, "key"), Value: nullable.Draw(t, "value")}
			if i == 0 {
				r.TimestampDelta = 0
			}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				r.Headers = append(r.Headers, KV{rapid.StringN(0, 5, 20).Draw(t, "name"), nullable.Draw(t, "header")})
			}
			b.Append(first+r.TimestampDelta, r.Key, r.Value, r.Headers...)
			want = append(want, r)
		}
		batch, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(batch)
		if err != nil || h.Size() != len(batch) || h.Codec() != codec || h.ProducerID != 7 || h.NumRecords != int32(len(want)) || VerifyCRC(batch) != nil {
			t.Fatalf("%+v, %v", h, err)
		}
		var theirs kmsg.RecordBatch
		if err := theirs.ReadFrom(batch); err != nil || theirs.NumRecords != h.NumRecords || theirs.MaxTimestamp != h.MaxTimestamp || int32(h.CRC) != theirs.CRC {
			t.Fatalf("as kmsg reads it: %+v, %v", theirs, err)
		}
		var got []Record
		for r, err := range Records(batch, 1<<20) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		other := rapid.SampledFrom(codecs).Draw(t, "other")
		plain, err := decompress(codec, batch[HeaderLen:], 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		again, err := recompress(batch, plain, Compression{Codec: other, Level: DefaultLevel})
		if err != nil || VerifyCRC(again) != nil {
			t.Fatalf("to %v: %v", other, err)
		}
		i := 0
		for r, err := range Records(again, 1<<20) {
			if err != nil || cmp.Diff(want[i], r) != "" {
				t.Fatalf("to %v: record %d: %v", other, i, err)
			}
			i++
		}
	})
}

func TestLimitOfDecompression(t *testing.T) {
	for _, codec := range codecs[1:] {
		b := NewBuilder(codec)
		b.Append(1, nil, make([]byte, 1<<20))
		batch := build(t, b)
		var got error
		for _, err := range Records(batch, 1<<19) {
			got = err
		}
		if !errors.Is(got, ErrTooLarge) {
			t.Errorf("%v: %v", codec, got)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, codec := range codecs {
		b := NewBuilder(codec)
		for _, ts := range []int64{100, 300, 200, 300} {
			b.Append(ts, nil, nil)
		}
		batch := build(t, b)
		Stamp(batch, 1000, 4)
		for _, c := range []struct{ ts, off, at int64 }{{0, 1000, 100}, {101, 1001, 300}, {300, 1001, 300}} {
			off, at, ok, err := FindTimestamp(batch, c.ts)
			if err != nil || !ok || int64(off) != c.off || at != c.at {
				t.Errorf("%v from %d: %d at %d, %v %v", codec, c.ts, off, at, ok, err)
			}
		}
		if _, _, ok, err := FindTimestamp(batch, 301); ok || err != nil {
			t.Errorf("%v: found one at 301: %v", codec, err)
		}
		if off, at, err := MaxTimestampOffset(batch); off != 1001 || at != 300 || err != nil {
			t.Errorf("%v: max %d at %d, %v", codec, off, at, err)
		}
		SetLogAppendTime(batch, 555)
		if off, at, err := MaxTimestampOffset(batch); off != 1000 || at != 555 || err != nil {
			t.Errorf("%v: max with LogAppendTime %d at %d, %v", codec, off, at, err)
		}
		if off, at, ok, err := FindTimestamp(batch, 500); off != 1000 || at != 555 || !ok || err != nil || VerifyCRC(batch) != nil {
			t.Errorf("%v: with LogAppendTime %d at %d, %v", codec, off, at, err)
		}
	}
}

func TestMarker(t *testing.T) {
	for _, commit := range []bool{false, true} {
		b, err := Marker(9, 2, commit, 77, time.UnixMilli(5))
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(b)
		kind, epoch, merr := MarkerType(b)
		if err != nil || merr != nil || !h.Control() || !h.Transactional() || (kind == 1) != commit || epoch != 77 || h.ProducerID != 9 || h.NumRecords != 1 {
			t.Fatalf("%+v %d %d %v %v", h, kind, epoch, err, merr)
		}
	}
}

// FuzzBatch: any bytes are read or refused, within bounds, by every reader.
func FuzzBatch(f *testing.F) {
	for _, c := range codecs {
		f.Add(three(f, c, []byte("k")))
		f.Add(three(f, c, nil)[:70])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= HeaderLen {
			setCRC(data) // the interesting part lies behind the checksum
		}
		n := 0
		for r, err := range Records(data, 1<<20) {
			if err != nil {
				break
			}
			if n += 1 + len(r.Key) + len(r.Value); n > 4<<20+1<<20 {
				t.Fatal("more came out than the limit")
			}
		}
		r := rules()
		r.Compacted = len(data)%2 == 0
		if batch, h, _, err := ValidateProduce(bytes.Clone(data), r); err == nil && (h.Size() != len(batch) || VerifyCRC(batch) != nil) {
			t.Fatalf("%+v was let through", h)
		}
		for b, err := range Split(data) {
			if err == nil && len(b) < HeaderLen {
				t.Fatal("a batch without a header")
			}
		}
		_, _, _, _ = FindTimestamp(data, 5)
		_, _, _ = MaxTimestampOffset(data)
		_, _, _ = MarkerType(data)
	})
}
