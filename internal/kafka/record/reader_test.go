package record

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReader reads batches of all codecs one after the other and compares
// with Records.
func TestReader(t *testing.T) {
	var r Reader
	for _, codec := range []Codec{None, Gzip, Snappy, LZ4, Zstd} {
		b := NewBuilder(codec)
		for i := range 200 {
			var headers []KV
			for j := range i % 4 {
				headers = append(headers, KV{Key: fmt.Sprint("h", j), Value: []byte{byte(i)}})
			}
			b.Append(int64(1000+i), []byte(fmt.Sprint("k", i)), bytes.Repeat([]byte{'v'}, i), headers...)
		}
		batch, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		plain, err := Decompress(nil, batch, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		h, _ := ParseHeader(batch)
		for _, begin := range []func() error{
			func() error { return r.Reset(batch, 1<<20) },
			func() error { r.ResetPlain(plain, h.NumRecords); return nil },
		} {
			if err := begin(); err != nil {
				t.Fatal(err)
			}
			for want, err := range Records(batch, 1<<20) {
				var got Record
				if ok, err := r.Next(&got); !ok || err != nil {
					t.Fatalf("%v: %v, %v", codec, ok, err)
				}
				if d := cmp.Diff(want, got); err != nil || d != "" {
					t.Fatalf("%v: %v\n%s", codec, err, d)
				}
			}
			if ok, err := r.Next(new(Record)); ok || err != nil {
				t.Errorf("%v: behind the end: %v, %v", codec, ok, err)
			}
		}
		if err := r.Reset(batch, 100); codec != None && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: over the limit: %v", codec, err)
		}
	}
}

// TestReaderAllocates shows that reading records takes no memory.
func TestReaderAllocates(t *testing.T) {
	b := NewBuilder(None)
	for i := range 1000 {
		b.Append(int64(i), []byte("key"), []byte("value"), KV{Key: "name", Value: []byte("x")})
	}
	batch, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var r Reader
	n := testing.AllocsPerRun(10, func() {
		if err := r.Reset(batch, 1<<20); err != nil {
			t.Fatal(err)
		}
		for rec := (Record{}); ; {
			if ok, err := r.Next(&rec); err != nil {
				t.Fatal(err)
			} else if !ok {
				return
			}
		}
	})
	if n > 2 {
		t.Errorf("%v allocations for 1,000 records", n)
	}
}
