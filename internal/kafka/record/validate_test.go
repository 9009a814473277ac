package record

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

func rules() Rules {
	return Rules{Topic: "t", MaxMessageBytes: 1 << 20, BeforeMaxMs: 1<<63 - 1, AfterMaxMs: 3_600_000, Compression: Compression{Producer: true}, Now: time.UnixMilli(1_000_000_000)}
}

func three(t testing.TB, codec Codec, key []byte) []byte {
	b := NewBuilder(codec)
	for i := range 3 {
		b.Append(999_999_000+int64(i), key, []byte(fmt.Sprint("value ", i)))
	}
	return build(t, b)
}

// TestValidateProduce has what Apache Kafka answers to good and bad batches.
func TestValidateProduce(t *testing.T) {
	edit := func(fn func(b []byte)) []byte {
		b := three(t, None, nil)
		fn(b)
		setCRC(b)
		return b
	}
	future := NewBuilder(None)
	future.Append(1_000_000_000+7_200_000, nil, []byte("v"))
	for _, c := range []struct {
		name    string
		records []byte
		change  func(*Rules)
		code    kafka.ErrorCode
		reached bool
		errs    int
		message string
	}{
		{name: "good", records: three(t, None, nil)},
		{name: "good zstd", records: three(t, Zstd, nil)},
		{name: "null", code: kafka.InvalidRecord},
		{name: "empty", records: []byte{}, code: kafka.InvalidRecord},
		{name: "truncated", records: three(t, None, nil)[:50], code: kafka.InvalidRecord},
		{name: "two batches", records: append(three(t, None, nil), three(t, None, nil)...), code: kafka.InvalidRecord},
		{name: "magic 1", records: edit(func(b []byte) { b[16] = 1 }), code: kafka.InvalidRecord},
		{name: "magic 3", records: edit(func(b []byte) { b[16] = 3 }), code: kafka.CorruptMessage, message: "Invalid magic found in record: 3"},
		{name: "crc", records: func() []byte { b := three(t, None, nil); b[len(b)-1]++; return b }(), code: kafka.CorruptMessage},
		{name: "count", records: edit(func(b []byte) { b[60]++ }), code: kafka.InvalidRecord, reached: true},
		{name: "count and last delta", records: edit(func(b []byte) { b[60]++; b[26]++ }), code: kafka.InvalidRecord, reached: true},
		{name: "control", records: edit(func(b []byte) { b[22] |= attrControl }), code: kafka.InvalidRecord, reached: true},
		{name: "base offset", records: edit(func(b []byte) { b[7] = 55 }), code: kafka.InvalidRecord, reached: true},
		{name: "codec 5", records: edit(func(b []byte) { b[22] |= 5 }), code: kafka.InvalidRecord, reached: true},
		{name: "too large", records: three(t, None, nil), change: func(r *Rules) { r.MaxMessageBytes = 80 }, code: kafka.MessageTooLarge},
		{name: "future", records: build(t, future), code: kafka.InvalidTimestamp, reached: true, errs: 1, message: "One or more records have been rejected due to invalid timestamp"},
		{name: "future, LogAppendTime", records: build(t, future), change: func(r *Rules) { r.LogAppendTime = true }},
		{name: "past", records: three(t, None, nil), change: func(r *Rules) { r.BeforeMaxMs = 10 }, code: kafka.InvalidTimestamp, reached: true, errs: 3},
		{name: "past zstd", records: three(t, Zstd, nil), change: func(r *Rules) { r.BeforeMaxMs = 10 }, code: kafka.InvalidTimestamp, reached: true, errs: 1},
		{name: "compacted without key", records: three(t, Gzip, nil), change: func(r *Rules) { r.Compacted = true }, code: kafka.InvalidRecord, reached: true, errs: 3},
		{name: "compacted with key", records: three(t, Gzip, []byte("k")), change: func(r *Rules) { r.Compacted = true }},
		{name: "last delta", records: edit(func(b []byte) { b[26]++ }), code: kafka.InvalidRecord, reached: true},
		{name: "records left over", records: edit(func(b []byte) { b[60]--; b[26]-- }), code: kafka.InvalidRecord, reached: true},
		{name: "negative count", records: edit(func(b []byte) { b[57] = 0xff }), code: kafka.InvalidRecord, reached: true},
		{name: "no records", records: build(t, NewBuilder(None)), code: kafka.InvalidRecord, reached: true},
		{name: "negative count and crc", records: func() []byte { b := three(t, None, nil); b[57] = 0xff; return b }(), code: kafka.CorruptMessage},
		{name: "more records than zstd holds", records: many(t), code: kafka.InvalidRecord, reached: true},
		{name: "sequence", records: edit(func(b []byte) { copy(b[43:], make([]byte, 8)) }), code: kafka.InvalidRecord, reached: true},
		{name: "offset delta", records: edit(func(b []byte) { b[HeaderLen+3] = 2 }), code: kafka.InvalidRecord, reached: true},
		{name: "null header name", records: edit(func(b []byte) { b[len(b)-1] = 2 }), code: kafka.InvalidRecord, reached: true},
		{name: "base offset and too large", records: edit(func(b []byte) { b[7] = 55 }), change: func(r *Rules) { r.MaxMessageBytes = 80 }, code: kafka.InvalidRecord, reached: true},
		{name: "too large and crc", records: func() []byte { b := three(t, None, nil); b[len(b)-1]++; return b }(), change: func(r *Rules) { r.MaxMessageBytes = 80 }, code: kafka.MessageTooLarge},
		{name: "too large in another codec", records: zeros(t, 1<<16), change: func(r *Rules) { r.MaxMessageBytes, r.Compression = 1000, Compression{Codec: None} }, code: kafka.MessageTooLarge},
		{name: "too large to decompress", records: zeros(t, maxReencode), change: func(r *Rules) { r.Compression = Compression{Codec: Gzip, Level: DefaultLevel} }, code: kafka.MessageTooLarge},
		{name: "no zstd inside, compacted", records: edit(func(b []byte) { b[22] |= 4 }), change: func(r *Rules) { r.Compacted = true }, code: kafka.InvalidRecord, reached: true},
		{name: "tiny", records: edit(func(b []byte) { copy(b[8:], []byte{0, 0, 0, 13}) }), code: kafka.CorruptMessage, message: "Record size 13 is less than the minimum record overhead (14)"},
		{name: "less than a header", records: edit(func(b []byte) { copy(b[8:], []byte{0, 0, 0, 40}) }), code: kafka.CorruptMessage},
		{name: "a truncated one behind", records: append(three(t, None, nil), three(t, None, nil)[:80]...)},
		{name: "garbage behind", records: append(three(t, None, nil), 1, 2, 3)},
		{name: "bad magic behind", records: append(three(t, None, nil), edit(func(b []byte) { b[16] = 9 })...), code: kafka.CorruptMessage, message: "Invalid magic found in record: 9"},
		{name: "LogAppendTime claimed", records: edit(func(b []byte) { b[22] |= attrLogAppendTime })},
		{name: "LogAppendTime claimed, LogAppendTime", records: edit(func(b []byte) { b[22] |= attrLogAppendTime }), change: func(r *Rules) { r.LogAppendTime = true }, code: kafka.InvalidTimestamp, reached: true, errs: 3},
		{name: "keyless and past", records: mixed(t), change: func(r *Rules) { r.Compacted, r.BeforeMaxMs = true, 10 }, code: kafka.InvalidTimestamp, reached: true, errs: 2, message: "One or more records have been rejected due to invalid timestamp"},
		{name: "keyless, as the probe saw", records: three(t, None, nil), change: func(r *Rules) { r.Compacted = true }, code: kafka.InvalidRecord, reached: true, errs: 3,
			message: "One or more records have been rejected due to 3 record errors in total, and only showing the first three errors at most: [RecordError(batchIndex=0, message='Compacted topic cannot accept message without key in topic partition t-0'), RecordError(batchIndex=1, message='Compacted topic cannot accept message without key in topic partition t-0'), RecordError(batchIndex=2, message='Compacted topic cannot accept message without key in topic partition t-0')]"},
		{name: "no time", records: untimed(t), change: func(r *Rules) { r.BeforeMaxMs = 10 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rules()
			if c.change != nil {
				c.change(&r)
			}
			before := bytes.Clone(c.records)
			batch, h, at, err := ValidateProduce(c.records, r)
			if c.code == kafka.None {
				if err != nil || h.NumRecords == 0 || (at >= 0) != r.LogAppendTime || VerifyCRC(batch) != nil || h.Size() != len(batch) || h.LogAppendTime() != r.LogAppendTime {
					t.Fatalf("%+v, %d, %v", h, at, err)
				}
				return
			}
			var inv *Invalid
			if !errors.As(err, &inv) || inv.Code != c.code || inv.Reached != c.reached || len(inv.Records) != c.errs || c.message != "" && inv.Message != c.message {
				t.Fatalf("%+v, want %v", err, c.code)
			}
			if !bytes.Equal(before, c.records) {
				t.Fatal("a refused batch was changed")
			}
		})
	}
}

func TestCompressionType(t *testing.T) {
	for _, from := range codecs {
		for _, to := range codecs {
			r := rules()
			r.Compression = Compression{Codec: to, Level: DefaultLevel}
			batch, h, _, err := ValidateProduce(three(t, from, nil), r)
			if err != nil || h.Codec() != to || VerifyCRC(batch) != nil {
				t.Fatalf("%v to %v: %+v, %v", from, to, h, err)
			}
		}
	}
}

// many is a small batch that claims two billion records.
func many(t testing.TB) []byte {
	b := three(t, Zstd, nil)
	copy(b[23:], []byte{0x7f, 0xff, 0xff, 0xfe})
	copy(b[57:], []byte{0x7f, 0xff, 0xff, 0xff})
	setCRC(b)
	return b
}

// zeros is a batch that decompresses to more than n bytes.
func zeros(t testing.TB, n int) []byte {
	b := NewBuilder(Zstd)
	b.Append(999_999_000, nil, make([]byte, n))
	return build(t, b)
}

// mixed has a record without a key, one too old, and a good one.
func mixed(t testing.TB) []byte {
	b := NewBuilder(None)
	b.Append(1_000_000_000, nil, nil)
	b.Append(1, []byte("k"), nil)
	b.Append(1_000_000_000, []byte("k"), nil)
	return build(t, b)
}

func untimed(t testing.TB) []byte {
	b := NewBuilder(None)
	b.Append(-1, nil, nil)
	return build(t, b)
}

// TestHeaderTimes: a batch whose header has another largest time than its
// records gets theirs, as in Kafka; retention and look-ups go by it.
func TestHeaderTimes(t *testing.T) {
	for _, claim := range []int64{0, -1, 1 << 60} {
		b := three(t, None, nil)
		SetLogAppendTime(b, claim)
		b[22] &^= attrLogAppendTime
		setCRC(b)
		batch, h, _, err := ValidateProduce(b, rules())
		if err != nil || h.MaxTimestamp != 999_999_002 || h.LogAppendTime() || VerifyCRC(batch) != nil {
			t.Errorf("%d: %+v, %v", claim, h, err)
		}
	}
	z := three(t, Zstd, nil)
	SetLogAppendTime(z, 1<<60)
	z[22] &^= attrLogAppendTime
	setCRC(z)
	if _, _, _, err := ValidateProduce(z, rules()); !errors.Is(err, kafka.InvalidTimestamp) {
		t.Errorf("compressed, the far future: %v", err)
	}
}

// TestRefusalsAreBounded: the answer to a batch full of bad records is short.
func TestRefusalsAreBounded(t *testing.T) {
	b := NewBuilder(Zstd)
	for range 5000 {
		b.Append(1, nil, nil)
	}
	for _, change := range []func(*Rules){func(r *Rules) { r.Compacted = true }, func(r *Rules) { r.Compression, r.BeforeMaxMs = Compression{}, 10 }} {
		r := rules()
		change(&r)
		var inv *Invalid
		if _, _, _, err := ValidateProduce(build(t, b), r); !errors.As(err, &inv) || len(inv.Records) != maxRefusals {
			t.Fatal(err)
		}
		if r.Compacted && !strings.Contains(inv.Message, "5000 record errors") {
			t.Fatal(inv.Message)
		}
	}
}

// TestUntouched: what is taken as it is, is the client's bytes.
func TestUntouched(t *testing.T) {
	for _, codec := range codecs {
		b := three(t, codec, []byte("k"))
		before := bytes.Clone(b)
		r := rules()
		r.Compacted = true
		batch, _, _, err := ValidateProduce(b, r)
		if err != nil || !bytes.Equal(batch, before) || &batch[0] != &b[0] {
			t.Errorf("%v: changed, or copied: %v", codec, err)
		}
	}
}

// BenchmarkValidateProduce has batches of 256 KiB of records.
func BenchmarkValidateProduce(b *testing.B) {
	for _, size := range []int{100, 1024} {
		for _, codec := range codecs {
			for _, compacted := range []bool{false, true} {
				bld := NewBuilder(codec)
				for i := range (256 << 10) / size {
					bld.Append(999_999_000, []byte("key"), bytes.Repeat([]byte(fmt.Sprint(i, " ")), size)[:size])
				}
				batch := build(b, bld)
				r := rules()
				r.Compacted = compacted
				b.Run(fmt.Sprintf("%v-%d-compacted=%v", codec, size, compacted), func(b *testing.B) {
					b.SetBytes(256 << 10)
					b.ReportAllocs()
					for b.Loop() {
						if _, _, _, err := ValidateProduce(batch, r); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
