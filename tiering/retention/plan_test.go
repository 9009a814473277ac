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
//
// With "follows" they are a page behind which more follow.
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var now, start int64
			l := Log{Config: config.Topic{RetentionMs: -1, RetentionBytes: -1, Delete: !d.HasArg("compact")}, Last: !d.HasArg("follows")}
			d.MaybeScanArgs(t, "now", &now)
			d.MaybeScanArgs(t, "ms", &l.Config.RetentionMs)
			d.MaybeScanArgs(t, "bytes", &l.Config.RetentionBytes)
			d.MaybeScanArgs(t, "hot", &l.Bytes)
			d.MaybeScanArgs(t, "start", &start)
			l.LogStart = kafka.Offset(start)
			for line := range strings.Lines(d.Input) {
				s := parseSegment(t, line)
				l.Segments = append(l.Segments, s)
				if s.End > l.LogStart {
					l.Bytes += s.RawSize
				}
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
	if d.More {
		fmt.Fprintf(&b, "more, of %d bytes\n", d.Bytes)
	}
	return b.String()
}

// model is a log as passes leave it.
type model struct {
	cfg   config.Topic
	start kafka.Offset
	hot   int64
	segs  []catalog.Segment
}

// pass is what a pass does, reading so many entries at once.
func (m *model) pass(t *rapid.T, now time.Time, page int) {
	l := Log{Config: m.cfg, LogStart: m.start, Bytes: m.hot}
	for _, s := range m.segs {
		if s.End > m.start {
			l.Bytes += s.RawSize
		}
	}
	end := m.segs[len(m.segs)-1].End
	var left []catalog.Segment
	rest := m.segs
	for more := true; more; {
		n := min(page, len(rest))
		l.Segments, l.Last = rest[:n], n == len(rest)
		d := Plan(now, l)
		if d.LogStart < l.LogStart {
			t.Fatalf("log start falls from %d to %d", l.LogStart, d.LogStart)
		}
		for i, s := range l.Segments {
			switch {
			case i >= len(d.Remove):
				left = append(left, s)
			case d.Remove[i].Base != s.Base || s.End > l.LogStart:
				t.Fatalf("segment %d to %d goes, with log start %d", s.Base, s.End, l.LogStart)
			case d.Replacement != nil && d.Replacement.Base == s.Base:
				left = append(left, *d.Replacement)
			}
		}
		m.start = max(m.start, d.LogStart)
		l.Bytes, rest, more = d.Bytes, rest[n:], d.More
	}
	m.segs = append(left, rest...)
	if m.segs[len(m.segs)-1].End != end {
		t.Fatalf("the log's end is lost: %+v", m.segs)
	}
}

// Whatever is asked, and however many entries are read at once: the oldest go,
// the log start falls never and is above what goes since the pass before, the log keeps
// its end, and after two passes there is nothing more to do.
func TestPlanHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.Int64Range(-1, 60)
		m := &model{
			cfg:   config.Topic{Delete: rapid.Bool().Draw(t, "delete"), RetentionMs: small.Draw(t, "ms"), RetentionBytes: small.Draw(t, "bytes")},
			start: kafka.Offset(rapid.Int64Range(0, 60).Draw(t, "start")), hot: rapid.Int64Range(0, 30).Draw(t, "hot"),
		}
		for end := kafka.Offset(0); end < 50; {
			s := catalog.Segment{Base: end, Key: rapid.SampledFrom([]string{"k", "k", ""}).Draw(t, "key")}
			end += kafka.Offset(rapid.IntRange(1, 20).Draw(t, "records"))
			s.End, s.RawSize, s.MaxTimestamp = end, int64(end-s.Base), rapid.Int64Range(-1, 100).Draw(t, "max")
			m.segs = append(m.segs, s)
		}
		now, page := time.UnixMilli(100), rapid.IntRange(1, 10).Draw(t, "page")
		whole := *m
		m.pass(t, now, page)
		whole.pass(t, now, len(whole.segs))
		if m.start != whole.start || fmt.Sprint(m.segs) != fmt.Sprint(whole.segs) {
			t.Fatalf("by pages of %d: start %d, %v; at once: start %d, %v", page, m.start, m.segs, whole.start, whole.segs)
		}
		m.pass(t, now, page)
		before := fmt.Sprint(m.start, m.segs)
		if m.pass(t, now, page); fmt.Sprint(m.start, m.segs) != before {
			t.Fatalf("a third pass: %s, then %v from %d", before, m.segs, m.start)
		}
	})
}
