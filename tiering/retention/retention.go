// Package retention removes what a log need not keep any more: by time, by
// size, below the log's start, and all of a deleted topic.
//
// Plan decides, as a function of the moment and of a log's entries. Job does
// it, in the order that lets it be killed at any point:
//
//	log start raised ─▶ entries unreferenced ─▶ grace, for readers ─▶ objects deleted
//	(catalogue, owner)  (one commit for 40)     (what they hold)
//
// After a kill the next pass finds the log start raised and goes on; objects
// that were unreferenced and not deleted are named by nothing, and the sweep
// finds them. The wait is a courtesy: a reader whose object went looks its offset up
// anew.
package retention

import (
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// Log is what Plan decides about.
type Log struct {
	Config   config.Topic
	LogStart kafka.Offset
	// Sealed is the end of the segments that the owner knows of. An entry
	// behind it was committed and its owner doesn't know yet (the outcome was
	// unknown): it must find the entry as it wrote it.
	Sealed   kafka.Offset
	HotBytes int64             // of the tail that is not sealed; counts towards retention.bytes
	Segments []catalog.Segment // from the oldest on, up to the newest if all that are given go
}

// Decision is what has to go.
type Decision struct {
	LogStart kafka.Offset      // never below the old one
	Remove   []catalog.Segment // the oldest, in order
	// Replacement is the empty entry that takes the place of the newest one,
	// which is the last of Remove; nil: it stays. It keeps the log's end.
	Replacement *catalog.Segment
}

// Plan decides as Kafka's UnifiedLog.deleteOldSegments does: what lies below
// the log's start goes whatever the policy; with cleanup.policy=delete the oldest
// segments go while the log without them still has retention.bytes (of
// batches as produced, hot tail included), and while their largest time is more
// than retention.ms ago.
func Plan(now time.Time, l Log) Decision {
	segs := known(l.Segments, l.Sealed)
	n := 0
	for n < len(segs) && segs[n].End <= l.LogStart {
		n++
	}
	if l.Config.Delete {
		n += bySize(segs[n:], l.HotBytes, l.Config.RetentionBytes)
		n += byTime(segs[n:], now, l.Config.RetentionMs)
	}
	d := Decision{LogStart: l.LogStart}
	if n == 0 {
		return d
	}
	d.LogStart = max(d.LogStart, segs[n-1].End)
	d.Remove = segs[:n:n]
	if n == len(segs) {
		d.keepEnd()
	}
	return d
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

// known returns the entries up to the end that the owner knows of.
func known(segs []catalog.Segment, sealed kafka.Offset) []catalog.Segment {
	n := len(segs)
	for n > 0 && segs[n-1].End > sealed {
		n--
	}
	return segs[:n]
}

// bySize returns how many of the oldest segments can go while limit bytes are left.
func bySize(segs []catalog.Segment, hot, limit int64) int {
	if limit < 0 {
		return 0
	}
	excess := hot - limit
	for i := range segs {
		excess += segs[i].RawSize
	}
	n := 0
	for n < len(segs) && segs[n].RawSize <= excess {
		excess -= segs[n].RawSize
		n++
	}
	return n
}

// byTime returns how many of the oldest segments are older than limit ms. One whose
// records have no time is as old as its sealing.
func byTime(segs []catalog.Segment, now time.Time, limit int64) int {
	if limit < 0 {
		return 0
	}
	n := 0
	for n < len(segs) {
		at := segs[n].MaxTimestamp
		if at < 0 {
			at = segs[n].CreatedMs
		}
		if now.UnixMilli()-at <= limit {
			break
		}
		n++
	}
	return n
}
