package compaction

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/bundle"
)

// What is merged of logs that keep all their records.
const (
	smallBytes = 8 << 20 // of batches: an entry with fewer is small
	ageParts   = 100     // records may stay longer by such a part of retention.ms
)

// Runs returns the runs of neighbouring small entries that become one each, so
// that a slow partition, which is sealed by segment.ms, has few entries and
// objects. A run is at least as large as twice its largest entry: each time
// that a record is written again it lies in something twice as large, so that is not often.
//
//	entries   [ 16M ][1K][2K][1K] … [1K][2K][ 9M ][1K][3K] newest
//	                 ╰─── least to 40 ────╯        too few    ▲ its owner checks it: it stays
//
// A log of which time removes the oldest entries keeps to segment.ms, or to a
// hundredth of retention.ms where that is more: no record stays for longer. Logs that are
// compacted are merged when they are cleaned. last tells that no entries follow.
func Runs(c config.Topic, least int, segs []catalog.Segment, last bool) [][]catalog.Segment {
	if c.Compact {
		return nil
	}
	if last && len(segs) > 0 {
		segs = segs[:len(segs)-1]
	}
	var runs [][]catalog.Segment
	for len(segs) >= least {
		n := runFrom(c, least, segs)
		if n > 0 {
			runs = append(runs, segs[:n:n])
		}
		segs = segs[max(n, 1):]
	}
	return runs
}

// runFrom returns how many of the first entries make the longest run; 0: none.
func runFrom(c config.Topic, least int, segs []catalog.Segment) (longest int) {
	var bytes, largest int64
	first, latest := int64(1<<63-1), int64(0)
	for i, s := range segs[:min(len(segs), groupEntries)] {
		bytes, largest = bytes+s.RawSize, max(largest, s.RawSize)
		first, latest = min(first, timeOr(s.FirstTimestamp, s.CreatedMs)), max(latest, timeOr(s.MaxTimestamp, s.CreatedMs))
		if s.Key == "" || s.RawSize >= smallBytes || bytes > c.SegmentBytes || c.Delete && c.RetentionMs >= 0 && latest-first > max(c.SegmentMs, c.RetentionMs/ageParts) {
			break
		}
		if i+1 >= least && 2*largest <= bytes {
			longest = i + 1
		}
	}
	return longest
}

// merge makes one entry of a run, of the same batches.
func (p *pass) merge(ctx context.Context, run []catalog.Segment) error {
	next := merged(run, run[0].Cleaned)
	var end *bundle.SegmentFooter
	var aborted []bundle.AbortedTxn
	var records, bytes int64
	for _, seg := range run {
		g, err := p.src.footer(ctx, seg)
		if err != nil {
			return fmt.Errorf("merge %s from offset %d: %w", p.tp, next.Base, err)
		}
		end, aborted = g, append(aborted, g.Aborted...)
		records, bytes = records+seg.Records, bytes+seg.RawSize
	}
	next, err := p.put(ctx, next, func(ctx context.Context, sw *bundle.SegmentWriter) (bundle.SegmentInfo, error) {
		for _, seg := range run {
			if err := p.src.batches(ctx, seg, seg.Base, add(sw)); err != nil {
				return bundle.SegmentInfo{}, err
			}
		}
		info, err := sw.Close(end.State, aborted)
		if err == nil && (info.Records != records || info.RawSize != bytes) {
			err = wrong("%d records in %d bytes where %d in %d should be", info.Records, info.RawSize, records, bytes)
		}
		return info, err
	})
	if err == nil {
		err = p.replace(ctx, run, next)
	}
	if err != nil {
		return fmt.Errorf("merge %s from offset %d: %w", p.tp, next.Base, err)
	}
	p.stats.Merged += len(run)
	return nil
}

// add returns a function that gives batches to a writer.
func add(sw *bundle.SegmentWriter) func(b []byte) error {
	return func(b []byte) error {
		m, err := bundle.Describe(b)
		if err != nil {
			return err
		}
		return sw.Batch(b, m)
	}
}
