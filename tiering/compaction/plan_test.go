package compaction

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// TestPlan runs scripts of entries, one a line: base-end, bytes=, max= (time),
// first=, created=, cleaned=, empty.
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			l := Log{Config: config.Topic{Compact: d.Cmd != "runs", RetentionMs: -1, SegmentBytes: math.MaxInt64, MinDirtyRatio: 0.5, MaxCompactionLagMs: math.MaxInt64}, Stable: math.MaxInt64}
			now, limit, end, more := int64(1000), int64(100), kafka.Offset(math.MaxInt64), false
			for _, a := range d.CmdArgs {
				var v int64
				if a.Key != "ratio" && a.Key != "more" {
					a.Scan(t, 0, &v)
				}
				switch a.Key {
				case "ratio":
					_, err := fmt.Sscan(a.Vals[0], &l.Config.MinDirtyRatio)
					check(t, err)
				case "now":
					now = v
				case "start":
					l.Start = kafka.Offset(v)
				case "stable":
					l.Stable = kafka.Offset(v)
				case "min.lag":
					l.Config.MinCompactionLagMs = v
				case "max.lag":
					l.Config.MaxCompactionLagMs = v
				case "limit":
					limit, l.Config.SegmentBytes = v, v
				case "retention":
					l.Config.Delete, l.Config.RetentionMs = true, v
				case "segment.ms":
					l.Config.SegmentMs = v
				case "entries":
					for i := range v {
						l.Segments = append(l.Segments, entryOf(t, fmt.Sprintf("%d-%d", i, i+1)))
					}
				case "more":
					more = true
				case "end":
					end = kafka.Offset(v)
				}
			}
			for line := range strings.Lines(d.Input) {
				l.Segments = append(l.Segments, entryOf(t, strings.TrimSpace(line)))
			}
			switch d.Cmd {
			case "groups":
				return groupsText(Groups(l.Segments, end, limit))
			case "runs":
				return groupsText(Runs(l.Config, 8, l.Segments, !more))
			}
			p := Plan(time.UnixMilli(now), l)
			if p.From == p.To {
				return "nothing\n"
			}
			return fmt.Sprintf("%d to %d, ratio %.2f, go %v\n", p.From, p.To, p.Ratio, p.Go)
		})
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func entryOf(t *testing.T, line string) catalog.Segment {
	t.Helper()
	s := catalog.Segment{Key: "k", RawSize: 10, FirstTimestamp: -1, MaxTimestamp: -1}
	fields := strings.Fields(line)
	_, err := fmt.Sscanf(fields[0], "%d-%d", &s.Base, &s.End)
	check(t, err)
	for _, f := range fields[1:] {
		if f == "empty" {
			s.Key, s.RawSize = "", 0
			continue
		}
		name, text, _ := strings.Cut(f, "=")
		var v int64
		_, err := fmt.Sscan(text, &v)
		check(t, err)
		switch name {
		case "bytes":
			s.RawSize = v
		case "max":
			s.MaxTimestamp = v
		case "first":
			s.FirstTimestamp = v
		case "created":
			s.CreatedMs = v
		case "cleaned":
			s.Cleaned = kafka.Offset(v)
		default:
			t.Fatalf("no field %s", name)
		}
	}
	return s
}

func groupsText(groups [][]catalog.Segment) string {
	var b strings.Builder
	for _, g := range groups {
		var parts []string
		for _, s := range g {
			parts = append(parts, fmt.Sprintf("%d-%d", s.Base, s.End))
		}
		if len(parts) > 6 {
			parts = append(parts[:3], fmt.Sprintf("… %d in all", len(g)))
		}
		fmt.Fprintln(&b, strings.Join(parts, " "))
	}
	return b.String()
}
