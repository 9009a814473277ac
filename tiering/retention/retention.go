// Package retention removes what a log need not keep any more: by time, by
// size, below the log's start, and all of a deleted topic; and the offsets of groups
// that nobody uses.
//
// Plan decides, as a function of the moment and of a log's entries. Job does
// it for all logs of a cluster, from the catalogue alone, so that it runs beside the
// brokers or in one of them. It can be killed at any point, and run twice:
//
//	one pass      log start raised ─▶ change feed ─▶ owners: ListOffsets and Fetch are right
//	the next one  entries below it unreferenced, their objects noted   (one commit for 40)
//	grace, for readers that still hold a reference
//	objects deleted ─▶ note forgotten
//
// Each commit checks the job's lease. What a killed run has not finished is in
// the catalogue: starts, notes and tombstones. The waits are a courtesy: a reader whose
// object went looks its offset up anew.
package retention

import (
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// Log is what Plan decides about: some of a log's entries, in order, the
// oldest ones that it has not decided about yet.
type Log struct {
	Config   config.Topic
	LogStart kafka.Offset      // as it was when the pass began
	Bytes    int64             // of batches, of these entries and all behind them, with the tail that is not sealed; only for retention.bytes
	Segments []catalog.Segment // a page
	Last     bool              // no entries follow
}

// Decision is what has to go.
type Decision struct {
	Remove []catalog.Segment // below the log start since before this pass; the first ones
	// Replacement is the empty entry that takes the place of the newest one,
	// which is the last of Remove; nil: it stays. It keeps the log's end.
	Replacement *catalog.Segment
	LogStart    kafka.Offset // what it has to be raised to; never below the old one
	Bytes       int64        // Log.Bytes without what goes
	More        bool         // all of the page goes: the next has to be decided about too
}

// Plan decides as Kafka's UnifiedLog.deleteOldSegments does: what lies below
// the log's start goes whatever the policy; with cleanup.policy=delete the oldest
// segments go while the log without them still has retention.bytes (of
// batches as produced, hot tail included), and while their largest time is more
// than retention.ms ago.
func Plan(now time.Time, l Log) Decision {
	n := 0
	for n < len(l.Segments) && l.Segments[n].End <= l.LogStart {
		n++
	}
	d := Decision{LogStart: l.LogStart, Bytes: l.Bytes, Remove: l.Segments[:n:n], More: !l.Last}
	if rest := l.Segments[n:]; len(rest) > 0 {
		d.expire(now, l.Config, rest)
	} else if l.Last && n > 0 {
		d.keepEnd()
	}
	return d
}

// expire raises the log start past what need not be kept any more.
func (d *Decision) expire(now time.Time, c config.Topic, segs []catalog.Segment) {
	n := 0
	if c.Delete {
		n = bySize(segs, d.Bytes, c.RetentionBytes)
		n += byTime(segs[n:], now, c.RetentionMs)
	}
	for i := range segs[:n] {
		d.LogStart = segs[i].End
		d.Bytes -= segs[i].RawSize
	}
	d.More = d.More && n == len(segs)
}

// keepEnd puts an empty entry in the place of the newest segment, or leaves
// the one that is there.
func (d *Decision) keepEnd() {
	last := len(d.Remove) - 1
	newest := d.Remove[last]
	if newest.Key == "" {
		d.Remove = d.Remove[:last]
		return
	}
	d.Replacement = &catalog.Segment{
		TP: newest.TP, Base: newest.Base, End: newest.End,
		FirstTimestamp: -1, MaxTimestamp: -1, CreatedMs: newest.CreatedMs, Epochs: newest.Epochs,
	}
}

// bySize returns how many of the oldest segments of a log of so many bytes can
// go while limit bytes are left.
func bySize(segs []catalog.Segment, bytes, limit int64) int {
	if limit < 0 {
		return 0
	}
	excess := bytes - limit
	n := 0
	for n < len(segs) && segs[n].RawSize <= excess {
		excess -= segs[n].RawSize
		n++
	}
	return n
}

// byTime returns how many of the oldest segments are older than limit ms.
func byTime(segs []catalog.Segment, now time.Time, limit int64) int {
	if limit < 0 {
		return 0
	}
	n := 0
	for n < len(segs) && now.UnixMilli()-agedFrom(&segs[n]) > limit {
		n++
	}
	return n
}

// agedFrom returns from when on retention.ms counts, in ms. A segment whose records
// have no time is as old as its sealing.
func agedFrom(s *catalog.Segment) int64 {
	if s.MaxTimestamp < 0 {
		return s.CreatedMs
	}
	return s.MaxTimestamp
}
