package main

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestParquet reads back what is written, with nulls, empty values and headers,
// over several row groups, by the library's own mapping to structs.
func TestParquet(t *testing.T) {
	type header struct {
		Key   string  `parquet:"key"`
		Value *[]byte `parquet:"value"`
	}
	type row struct {
		Headers   []header `parquet:"headers"`
		Key       *[]byte  `parquet:"key"`
		Offset    int64    `parquet:"offset"`
		Partition int32    `parquet:"partition"`
		Timestamp int64    `parquet:"timestamp"`
		Value     *[]byte  `parquet:"value"`
	}
	var records []*kgo.Record
	var want []row
	for i := range 300 {
		r := &kgo.Record{Offset: int64(i), Partition: 3, Timestamp: time.UnixMilli(int64(1000 + i))}
		w := row{Offset: r.Offset, Partition: 3, Timestamp: int64(1000 + i), Headers: []header{}}
		if i%3 > 0 {
			r.Key = bytes.Repeat([]byte{'k'}, i%3-1)
			w.Key = &r.Key
		}
		if i%4 > 0 {
			r.Value = bytes.Repeat([]byte{'v'}, i%4-1)
			w.Value = &r.Value
		}
		for j := range i % 3 {
			h := kgo.RecordHeader{Key: "h", Value: []byte{byte(j)}}
			if j == 0 {
				h.Value = nil
			}
			r.Headers = append(r.Headers, h)
			out := header{Key: "h"}
			if h.Value != nil {
				out.Value = &h.Value
			}
			w.Headers = append(w.Headers, out)
		}
		records, want = append(records, r), append(want, w)
	}
	var file bytes.Buffer
	err := writeParquet(&file, func(yield func(*kgo.Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}, 6000)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(f.RowGroups()); n < 2 {
		t.Errorf("%d row groups", n)
	}
	rd := parquet.NewGenericReader[row](f)
	got := make([]row, len(want)+1)
	n, err := rd.Read(got)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got[:n]); d != "" {
		t.Errorf("-want +got:\n%.3000s", d)
	}
}
