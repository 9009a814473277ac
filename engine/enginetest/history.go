package enginetest

import "fmt"

// sent is a record that a producer was to write.
type sent struct {
	producer, n int
	partition   int32
	acked       bool
	offset      int64 // where, if acked
}

// seen is a record that a reader got.
type seen struct {
	partition int32
	offset    int64
	value     string
}

func valueOf(producer, n int) string { return fmt.Sprintf("producer %d record %d", producer, n) }

// check compares what was sent with what one reader saw of the whole log, in
// the order in which it saw it, and returns every anomaly.
func check(history []sent, read []seen) []string {
	var bad []string
	report := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	type place struct {
		partition int32
		offset    int64
	}
	at := make(map[place]string)
	places := make(map[string][]place)
	next := make(map[int32]int64)
	last := make(map[[2]int]int) // producer and partition → the record seen last
	for _, s := range read {
		p := place{s.partition, s.offset}
		if s.offset != next[s.partition] {
			report("partition %d: offset %d where %d should be", s.partition, s.offset, next[s.partition])
		}
		next[s.partition] = s.offset + 1
		at[p] = s.value
		places[s.value] = append(places[s.value], p)
		var producer, n int
		if _, err := fmt.Sscanf(s.value, "producer %d record %d", &producer, &n); err != nil || s.value != valueOf(producer, n) {
			report("partition %d offset %d: changed record %q", s.partition, s.offset, s.value)
			continue
		}
		k := [2]int{producer, int(s.partition)}
		if before, ok := last[k]; ok && n <= before {
			report("partition %d offset %d: %q behind record %d: reordered or duplicate", s.partition, s.offset, s.value, before)
		}
		last[k] = n
	}
	known := make(map[string]bool)
	for _, h := range history {
		v := valueOf(h.producer, h.n)
		known[v] = true
		switch got := places[v]; {
		case len(got) > 1:
			report("%q is there %d times: %v", v, len(got), got)
		case h.acked && len(got) == 0:
			report("%q was acknowledged at %d/%d and is lost (there: %q)", v, h.partition, h.offset, at[place{h.partition, h.offset}])
		case h.acked && got[0] != place{h.partition, h.offset}:
			report("%q was acknowledged at %d/%d and is at %v", v, h.partition, h.offset, got[0])
		}
	}
	for v := range places {
		if !known[v] {
			report("%q was never sent", v)
		}
	}
	return bad
}
