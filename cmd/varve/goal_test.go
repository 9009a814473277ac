package main

import (
	"slices"
	"testing"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

// Of what compaction has left at an end: batches without records, and those whose
// last ones are gone.
func TestPassed(t *testing.T) {
	batch := func(base kafka.Offset, records int, more int32) []byte {
		b := record.NewBuilder(record.LZ4)
		for range records {
			b.Append(1, []byte("k"), []byte("v"))
		}
		out, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		record.Stamp(out, base, 0)
		h, err := record.ParseHeader(out)
		if err != nil {
			t.Fatal(err)
		}
		if h.LastOffsetDelta += more; more > 0 {
			out = record.Emptied(h)
		}
		return out
	}
	empty, full := batch(10, 1, 4), batch(15, 2, 0) // 10–14, 15–16
	for name, c := range map[string]struct {
		batches    []byte
		next, want int64
	}{
		"nothing":              {nil, 7, 7},
		"no records":           {empty, 7, 15},
		"records behind those": {slices.Concat(empty, full), 7, 15},
		"in the middle":        {full, 16, 16},
		"all were read":        {full, 17, 17},
		"cut off":              {slices.Concat(empty, full[:50]), 7, 15},
	} {
		if got := passed(c.batches, c.next); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
