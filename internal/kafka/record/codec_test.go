package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// TestScan: what is seen without holding the records is what they are, also
// where fields lie across the scanner's window.
func TestScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBuilder(rapid.SampledFrom(codecs).Draw(t, "codec"))
		var want []skim
		for i := range rapid.IntRange(1, 30).Draw(t, "count") {
			key := make([]byte, rapid.IntRange(0, 100).Draw(t, "key"))
			if rapid.Bool().Draw(t, "null") {
				key = nil
			}
			value := bytes.Repeat([]byte{byte(i), 7}, rapid.SampledFrom([]int{0, 10, 1000, 16 << 10, 16<<10 - 20, 40 << 10}).Draw(t, "value"))
			b.Append(int64(5+i*i), key, value, KV{"h", key})
			want = append(want, skim{int64(i * i), int64(i), key == nil})
		}
		batch, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(batch)
		if err != nil {
			t.Fatal(err)
		}
		s, err := scan(batch, h, 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		for i, w := range want {
			if got := s.record(); got != w || s.bad {
				t.Fatalf("record %d: %+v, want %+v: %v", i, got, w, s.fail())
			}
		}
		if !s.atEnd() {
			t.Fatal("something is left")
		}
		if s.record(); !s.bad {
			t.Fatal("a record behind the last one")
		}
	})
}

// TestScanLimit: a scanner gives up at its limit.
func TestScanLimit(t *testing.T) {
	for _, codec := range codecs[1:] {
		b := NewBuilder(codec)
		for range 100 {
			b.Append(1, nil, make([]byte, 10<<10))
		}
		batch := build(t, b)
		h, err := ParseHeader(batch)
		if err != nil {
			t.Fatal(err)
		}
		s, err := scan(batch, h, 500<<10)
		for err == nil && !s.bad {
			s.record()
		}
		if err == nil {
			err = s.fail()
		}
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: %v", codec, err)
		}
	}
}

// TestWideWindow: a zstd frame with a window of 64 MiB, as the levels over 19
// make, is read, but its word is not taken for memory.
func TestWideWindow(t *testing.T) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(64<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789"), 300_000) // more than the writer keeps back, so that the window is written
	for range 4 {
		if _, err := w.Write(want); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, wide := wideZstd(Zstd, out.Bytes()); !wide {
		t.Fatal("the writer chose a smaller window")
	}
	got, err := decompress(Zstd, out.Bytes(), 16<<20)
	if err != nil || !bytes.Equal(got, bytes.Repeat(want, 4)) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := decompress(Zstd, out.Bytes(), 4*len(want)-1); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
}

// TestHostileFrames: small input that claims much costs little.
func TestHostileFrames(t *testing.T) {
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 1, 0, 0}           // a window of 128 MiB, an empty block
	content := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10, 1, 0, 0} // 256 MiB of content in one segment
	block := binary.AppendUvarint(nil, 200<<20)                             // a snappy block of 200 MiB
	framed := append(bytes.Clone(xerial), 0, 0, 0, byte(len(block)))        // the same, framed
	for name, c := range map[string]struct {
		codec Codec
		src   []byte
	}{"zstd window": {Zstd, window}, "zstd content": {Zstd, content}, "snappy": {Snappy, block}, "xerial": {Snappy, append(framed, block...)}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decompress(c.codec, c.src, MaxDecompressed)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: %d bytes allocated, %v", name, n, err)
		}
	}
}
