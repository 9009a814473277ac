package retention

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// TestPlan runs scripts: the settings are arguments, each line is a segment
//
//	<base>-<end> [bytes=<n>] [max=<ms>] [created=<ms>] [empty]
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var now int64
			l := Log{Config: config.Topic{RetentionMs: -1, RetentionBytes: -1, Delete: !d.HasArg("compact")}, Sealed: -1}
			d.MaybeScanArgs(t, "now", &now)
			d.MaybeScanArgs(t, "ms", &l.Config.RetentionMs)
			d.MaybeScanArgs(t, "bytes", &l.Config.RetentionBytes)
			d.MaybeScanArgs(t, "hot", &l.HotBytes)
			var start, sealed int64 = 0, -1
			d.MaybeScanArgs(t, "start", &start)
			d.MaybeScanArgs(t, "sealed", &sealed)
			for line := range strings.Lines(d.Input) {
				l.Segments = append(l.Segments, parseSegment(t, line))
			}
			l.LogStart, l.Sealed = kafka.Offset(start), kafka.Offset(sealed)
			if n := len(l.Segments); sealed < 0 && n > 0 {
				l.Sealed = l.Segments[n-1].End
			}
			return describe(Plan(time.UnixMilli(now), l))
		})
	})
}

func parseSegment(t *testing.T, line string) catalog.Segment {
	s := catalog.Segment{MaxTimestamp: -1, Key: "seg"}
	fields := strings.Fields(line)
	if _, err := fmt.Sscanf(fields[0], "%d-%d", &s.Base, &s.End); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	for _, f := range fields[1:] {
		name, value, _ := strings.Cut(f, "=")
		into := map[string]*int64{"bytes": &s.RawSize, "max": &s.MaxTimestamp, "created": &s.CreatedMs}[name]
		if name == "empty" {
			s.Key = ""
		} else if _, err := fmt.Sscan(value, into); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	return s
}

func describe(d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "start %d\n", d.LogStart)
	for _, s := range d.Remove {
		fmt.Fprintf(&b, "remove %d-%d\n", s.Base, s.End)
	}
	if r := d.Replacement; r != nil {
		fmt.Fprintf(&b, "empty entry %d-%d\n", r.Base, r.End)
		if r.Key != "" || r.RawSize != 0 || r.Size != 0 || r.Records != 0 || r.MaxTimestamp != -1 {
			fmt.Fprintf(&b, "which is not empty: %+v\n", *r)
		}
	}
	return b.String()
}

// Whatever is asked: the oldest go, the log start falls never and passes all
// that goes, the log keeps its end, and a second pass finds nothing to do.
func TestPlanHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.Int64Range(-1, 60)
		l := Log{
			Config:   config.Topic{Delete: rapid.Bool().Draw(t, "delete"), RetentionMs: small.Draw(t, "ms"), RetentionBytes: small.Draw(t, "bytes")},
			LogStart: kafka.Offset(rapid.Int64Range(0, 60).Draw(t, "start")), HotBytes: rapid.Int64Range(0, 30).Draw(t, "hot"),
		}
		for end := kafka.Offset(0); end < 50; {
			s := catalog.Segment{Base: end, Key: rapid.SampledFrom([]string{"k", "k", ""}).Draw(t, "key")}
			end += kafka.Offset(rapid.IntRange(1, 20).Draw(t, "records"))
			s.End, s.RawSize, s.MaxTimestamp = end, int64(end-s.Base), rapid.Int64Range(-1, 100).Draw(t, "max")
			l.Segments = append(l.Segments, s)
			if rapid.IntRange(0, 9).Draw(t, "unknown") > 0 {
				l.Sealed = end
			}
		}
		now := time.UnixMilli(100)
		d := Plan(now, l)
		if d.LogStart < l.LogStart {
			t.Fatalf("log start falls from %d to %d", l.LogStart, d.LogStart)
		}
		var left []catalog.Segment
		for i, s := range l.Segments {
			switch {
			case i >= len(d.Remove):
				left = append(left, s)
			case d.Remove[i].Base != s.Base || s.End > d.LogStart || s.End > l.Sealed:
				t.Fatalf("segment %d to %d goes, with log start %d", s.Base, s.End, d.LogStart)
			case d.Replacement != nil && d.Replacement.Base == s.Base:
				left = append(left, *d.Replacement)
			}
		}
		if end := l.Segments[len(l.Segments)-1].End; len(left) == 0 || left[len(left)-1].End != end {
			t.Fatalf("the log's end is lost: %+v", left)
		}
		l.Segments, l.LogStart = left, d.LogStart
		if again := Plan(now, l); len(again.Remove) > 0 || again.Replacement != nil || again.LogStart != d.LogStart {
			t.Fatalf("a second pass: %s", describe(again))
		}
	})
}
