// Package compaction keeps of each key of a compacted log the last record, as
// Kafka's log cleaner does (LogCleaner, Cleaner; tombstones: KIP-534;
// transactions: KIP-98). It works on sealed segments in the object store and
// replaces their entries in the catalogue; the broker that owns the log goes
// on appending meanwhile and is asked for nothing.
//
//	entries   [ cleaned before ][ cleaned before ][ dirty ][ dirty ][ dirty ] (tail, not sealed)
//	                                              From ─────────────▶ To
//	keys      ───────────────── last offset of each key in [From, To) ───────
//	rewrite   [ group: what is left of both      ][ group                   ]
//
// Plan decides, as a function of the moment and of a log's entries, whether
// there is enough to clean and which offsets. Then a pass gathers the keys of the
// dirty part, as many as fit into memory, and writes the log anew up to there,
// one group of segments after the other: read the sources, check their sums
// and counts, write one object, read it back and check it, commit. Offsets
// never change, holes are left. A pass that was killed has committed some
// groups from the left; the next one begins with the first entry that is
// dirty.
package compaction

import (
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// ErrCorrupt means that a source or what was written of it is not what it
// should be. Nothing was replaced.
var ErrCorrupt = errors.New("compaction: wrong count or range")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// groupEntries is how many entries one commit replaces at most.
const groupEntries = 40

// Log is what Plan decides about.
type Log struct {
	Config   config.Topic
	Start    kafka.Offset      // of the log
	Stable   kafka.Offset      // last stable offset at the end of the last entry
	Segments []catalog.Segment // all entries from the one that holds Start on
}

// Decision is what there is to clean.
type Decision struct {
	From, To kafka.Offset // the dirty range whose keys count; empty: nothing can be cleaned
	Ratio    float64      // dirty bytes : all bytes below To
	Dirty    int64        // bytes of batches
	Go       bool         // it is time to
}

// Plan decides as Kafka's LogCleanerManager does. What lies behind the last
// stable offset, or is younger than min.compaction.lag.ms, cannot be cleaned
// yet; the rest is cleaned when more than min.cleanable.dirty.ratio of it is
// dirty, or some of it is older than max.compaction.lag.ms. The tail that is
// not sealed is what Kafka's active segment is: it is never cleaned.
func Plan(now time.Time, l Log) Decision {
	var d Decision
	first := firstDirty(l.Segments)
	if first < 0 {
		return d
	}
	dirty := l.Segments[first:]
	d.From = max(dirty[0].Base, dirty[0].Cleaned, l.Start)
	d.To = min(dirty[len(dirty)-1].End, l.Stable)
	var clean int64
	for _, s := range l.Segments[:first] {
		clean += s.RawSize
	}
	earliest := now.UnixMilli()
	for _, s := range dirty {
		if s.Base >= d.To {
			break
		}
		if s.Key == "" {
			continue
		}
		if lag := l.Config.MinCompactionLagMs; lag > 0 && now.UnixMilli()-timeOr(s.MaxTimestamp, s.CreatedMs) < lag {
			d.To = s.Base
			break
		}
		earliest = min(earliest, timeOr(s.FirstTimestamp, s.CreatedMs))
		d.Dirty += s.RawSize
	}
	if d.To <= d.From || d.Dirty == 0 {
		return Decision{}
	}
	d.Ratio = float64(d.Dirty) / float64(clean+d.Dirty)
	d.Go = d.Ratio > l.Config.MinDirtyRatio || now.UnixMilli()-earliest > l.Config.MaxCompactionLagMs
	return d
}

// firstDirty returns the index of the first entry that was not cleaned up to
// its end, -1 where there is none.
func firstDirty(segs []catalog.Segment) int {
	for i := range segs {
		if segs[i].Key != "" && segs[i].Cleaned < segs[i].End {
			return i
		}
	}
	return -1
}

// timeOr returns a segment's time, or when it was made if its records have none.
func timeOr(ms, created int64) int64 {
	if ms >= 0 {
		return ms
	}
	return created
}

// Groups returns the runs of entries that begin below end and become one entry
// each, as Kafka's groupSegmentsBySize does: up to limit bytes of batches, so that what
// has shrunk grows together again. A placeholder has no footer and so no state
// for the end of a group: it goes with the entry behind it.
func Groups(segs []catalog.Segment, end kafka.Offset, limit int64) [][]catalog.Segment {
	var groups [][]catalog.Segment
	var size int64
	for len(segs) > 0 && segs[0].Base < end {
		n, bytes := unit(segs, end)
		last := len(groups) - 1
		if last >= 0 && groups[last][len(groups[last])-1].Key != "" && segs[n-1].Key != "" &&
			len(groups[last])+n <= groupEntries && size+bytes <= limit {
			groups[last] = append(groups[last], segs[:n]...)
			size += bytes
		} else {
			groups = append(groups, append([]catalog.Segment(nil), segs[:n]...))
			size = bytes
		}
		segs = segs[n:]
	}
	return groups
}

// unit returns how many entries stay together in any case, placeholders and
// the entry behind them, and their bytes.
func unit(segs []catalog.Segment, end kafka.Offset) (n int, bytes int64) {
	for n < len(segs) && n < groupEntries && segs[n].Base < end {
		n++
		if segs[n-1].Key != "" {
			break
		}
	}
	return n, segs[n-1].RawSize
}
