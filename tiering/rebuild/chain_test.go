package rebuild

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/upload"
)

func segment(from, to kafka.Offset, lease, n int64) piece {
	writer := bundle.Origin{Broker: 1, Seq: n}
	if lease > 0 {
		writer = bundle.Origin{Broker: upload.JobBroker, Epoch: lease, Seq: n}
	}
	return piece{catalog.Segment{Base: from, End: to, Key: fmt.Sprintf("%d-%d/%d", from, to, lease)}, writer}
}

func drawn(log []catalog.Segment, missing []Run) string {
	var all []string
	for _, s := range log {
		all = append(all, s.Key)
	}
	for _, r := range missing {
		all = append(all, fmt.Sprintf("-%d..%d", r.From, r.To))
	}
	return strings.Join(all, " ")
}

// TestChain: which objects are the log, where replaced ones and lost attempts are
// still there.
func TestChain(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces []piece
		want   string
	}{
		{"none", nil, ""},
		{"one behind the other", []piece{segment(5, 9, 0, 1), segment(0, 5, 0, 2)}, "0-5/0 5-9/0"},
		{"replaced", []piece{segment(0, 5, 0, 1), segment(5, 9, 0, 2), segment(0, 9, 3, 1)}, "0-9/3"},
		{"replaced twice", []piece{segment(0, 5, 0, 1), segment(0, 9, 3, 1), segment(9, 12, 0, 3), segment(0, 12, 4, 1)}, "0-12/4"},
		{"the newest first, where it does not matter", []piece{segment(0, 5, 3, 9), segment(0, 5, 4, 1), segment(0, 5, 0, 1)}, "0-5/4"},
		{"a lost attempt", []piece{segment(0, 5, 0, 1), segment(0, 7, 0, 2), segment(5, 9, 0, 3)}, "0-5/0 5-9/0"},
		{"a lost attempt at the end", []piece{segment(0, 5, 0, 1), segment(5, 7, 0, 2), segment(5, 9, 0, 3)}, "0-5/0 5-9/0"},
		{"a hole", []piece{segment(0, 5, 0, 1), segment(7, 9, 0, 2)}, "0-5/0 7-9/0 -5..7"},
		{"what was replaced closes a hole", []piece{segment(0, 5, 0, 1), segment(5, 7, 0, 2), segment(0, 4, 2, 1), segment(7, 8, 0, 3)}, "0-5/0 5-7/0 7-8/0"},
		{"empty", []piece{segment(5, 5, 0, 1)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, drawn(chain(c.pieces))); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestChainOfHistory: whatever owners and compaction did, with every object still
// there, the chain is what the entries were.
func TestChainOfHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var entries, objects []piece
		end, lease := kafka.Offset(0), int64(0)
		for n := range int64(rapid.IntRange(1, 30).Draw(t, "steps")) {
			switch {
			case rapid.Bool().Draw(t, "seal"):
				size := kafka.Offset(rapid.IntRange(1, 9).Draw(t, "size"))
				p := segment(end, end+size, 0, n)
				entries, objects, end = append(entries, p), append(objects, p), end+size
			case len(entries) > 0: // a pass over all from a beginning, group by group
				lease++
				for i := 0; i < len(entries); i++ {
					j := min(len(entries), i+rapid.IntRange(1, 3).Draw(t, "group"))
					p := segment(entries[i].entry.Base, entries[j-1].entry.End, lease, n)
					entries, objects = slices.Replace(entries, i, j, p), append(objects, p)
					if rapid.Bool().Draw(t, "killed") {
						break
					}
				}
			}
		}
		var want []catalog.Segment
		for _, p := range entries {
			want = append(want, p.entry)
		}
		if d := cmp.Diff(drawn(want, nil), drawn(chain(objects))); d != "" {
			t.Fatal(d)
		}
	})
}
