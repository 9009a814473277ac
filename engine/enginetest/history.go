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

// place is where a record lies.
type place struct {
	partition int32
	offset    int64
}

func valueOf(producer, n int) string { return fmt.Sprintf("producer %d record %d", producer, n) }

// check compares what was sent with what one reader saw of the whole log, in
// the order in which it saw it, and returns every anomaly. The log of a partition begins at
// starts: what was acknowledged below has gone as it should.
func check(history []sent, read []seen, starts map[int32]int64) []string {
	var bad []string
	report := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	at := make(map[place]string)
	places := make(map[string][]place)
	next := make(map[int32]int64)
	for p, off := range starts {
		next[p] = off
	}
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
		case h.acked && len(got) == 0 && h.offset >= starts[h.partition]:
			report("%q was acknowledged at %d/%d and is lost (there: %q)", v, h.partition, h.offset, at[place{h.partition, h.offset}])
		case h.acked && len(got) > 0 && got[0] != place{h.partition, h.offset}:
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

// positions is the history of a group: what its members committed and what
// they read. All are keyed by partition.
type positions struct {
	asked, acked map[int32]int64  // the largest commits that were sent, and answered
	consumed     map[place]string // by any member
	bad          []string
}

func newPositions() *positions {
	return &positions{asked: make(map[int32]int64), acked: make(map[int32]int64), consumed: make(map[place]string)}
}

func (g *positions) report(format string, args ...any) {
	g.bad = append(g.bad, fmt.Sprintf(format, args...))
}

// resumed notes where a member begins, which was told floor when it was
// assigned the partition: not before what was committed then, nor behind what anybody ever asked for.
func (g *positions) resumed(partition int32, at, floor int64) {
	if at < floor {
		g.report("group: partition %d begins at %d, %d was committed", partition, at, floor)
	}
	if at > g.asked[partition] {
		g.report("group: partition %d begins at %d, nobody committed more than %d", partition, at, g.asked[partition])
	}
}

// check compares what the group consumed with the log, and the offsets that are committed
// in the end with what was answered.
func (g *positions) check(read []seen, committed map[int32]int64) []string {
	bad := g.bad
	for _, s := range read {
		p := place{s.partition, s.offset}
		if got, ok := g.consumed[p]; !ok || got != s.value {
			bad = append(bad, fmt.Sprintf("group: %v is %q and was consumed as %q", p, s.value, got))
		}
	}
	for p, off := range g.acked {
		if at, ok := committed[p]; !ok || at < off || at > g.asked[p] {
			bad = append(bad, fmt.Sprintf("group: partition %d: %d is committed (%v), %d was acknowledged, %d asked for", p, at, ok, off, g.asked[p]))
		}
	}
	return bad
}
