package rebuild

import (
	"cmp"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/upload"
)

// piece is a segment's object: it says what the log has in [entry.Base, entry.End).
type piece struct {
	entry  catalog.Segment
	writer bundle.Origin
}

// Run is a run of offsets.
type Run struct {
	From, To kafka.Offset // To exclusive
}

// chain chooses the objects that make up a log's sealed part, and returns the
// offsets that none of them has. Every one that is there says the truth about its
// offsets, whether an entry named it or not: an owner seals only what is durable, and compaction
// replaces only what it has read.
//
//	owner's          [ 0–100 ][ 100–200 ][ 200–300 ]
//	lease 5          [ 0 –––––––– 200  ]             replaced, not deleted yet
//	lease 7          [ 0 ––––––––––––––––––– 300 ]
//	owner's again                                [ 300–350 ][ 350–400 ]
//	a lost attempt                               [ 300 –– 380 ]
//
// First counts that as few offsets as can be are missing, then the newest
// rewriting: a later part of it may stand on what it has left out of an earlier one. Compaction
// replaces whole entries, so that one begins where the older ones did. Pieces that overlap
// otherwise are what a lost attempt left behind: they are passed over where others fit.
func chain(pieces []piece) (log []catalog.Segment, missing []Run) {
	pieces = slices.DeleteFunc(slices.Clone(pieces), func(p piece) bool { return p.entry.End <= p.entry.Base })
	if len(pieces) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(pieces, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.entry.Base, b.entry.Base), cmp.Compare(generation(b), generation(a)), cmp.Compare(b.entry.End, a.entry.End), cmp.Compare(b.writer.Seq, a.writer.Seq))
	})
	var end kafka.Offset
	for _, p := range pieces {
		end = max(end, p.entry.End)
	}
	// lost[i] is what is missing from the i-th piece's beginning on, if it is chosen.
	lost := make([]kafka.Offset, len(pieces))
	// best returns the piece to go on with at an offset, and what is missing from there on.
	best := func(at kafka.Offset) (int, kafka.Offset) {
		i, _ := slices.BinarySearchFunc(pieces, at, func(p piece, at kafka.Offset) int { return cmp.Compare(p.entry.Base, at) })
		if i == len(pieces) {
			return i, end - at
		}
		base, n := pieces[i].entry.Base, i
		for j := i; j < len(pieces) && pieces[j].entry.Base == base; j++ {
			if lost[j] < lost[n] {
				n = j
			}
		}
		return n, base - at + lost[n]
	}
	for i := len(pieces) - 1; i >= 0; i-- {
		_, lost[i] = best(pieces[i].entry.End)
	}
	for at := pieces[0].entry.Base; at < end; {
		i, _ := best(at)
		if i == len(pieces) {
			missing = append(missing, Run{at, end})
			break
		}
		e := pieces[i].entry
		if e.Base > at {
			missing = append(missing, Run{at, e.Base})
		}
		log = append(log, e)
		at = e.End
	}
	return log, missing
}

// generation orders who wrote the same offsets: an owner first, then
// compaction by its lease.
func generation(p piece) int64 {
	if p.writer.Broker != upload.JobBroker {
		return -1
	}
	return p.writer.Epoch
}
