package recovery

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

var a, b = catalog.SessionID{Broker: 1}, catalog.SessionID{Broker: 2}

func all(kafka.TopicID) bool { return true }

func span(s catalog.SessionID, from, to int64) catalog.Span {
	return catalog.Span{Session: s, From: from, To: to}
}

// TestOrderOfSpans: each slot's spans come in its own order, together with
// others' where that is possible.
func TestOrderOfSpans(t *testing.T) {
	for _, c := range []struct {
		name  string
		spans [][]catalog.Span // of each slot
		want  string
	}{
		{"none", [][]catalog.Span{nil}, ""},
		{"together", [][]catalog.Span{{span(a, 3, 5)}, {span(a, 1, 4)}, {span(a, 2, -1)}}, "1:1..-1"},
		{"handed over", [][]catalog.Span{{span(a, 3, 5), span(b, 1, -1)}, {span(b, 4, -1)}}, "1:3..5 2:1..-1"},
		{"crosswise", [][]catalog.Span{{span(a, 3, 5), span(b, 1, -1)}, {span(b, 4, 6), span(a, 7, -1)}}, "1:3..5 2:1..-1 1:7..-1"},
		{"to and fro", [][]catalog.Span{{span(a, 0, 5), span(b, 1, 2), span(a, 6, -1)}}, "1:0..5 2:1..2 1:6..-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var slots []catalog.Slot
			for i, spans := range c.spans {
				slots = append(slots, catalog.Slot{Slot: kafka.Slot(i), Spans: spans})
			}
			var runs []string
			r := New(slots, all)
			for run, ok := r.Next(); ok; run, ok = r.Next() {
				runs = append(runs, fmt.Sprintf("%d:%d..%d", run.Session.Broker, run.From, run.To))
			}
			if diff := cmp.Diff(c.want, strings.Join(runs, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestOrderOfCheckpoints: the first slot names only the newer one.
func TestOrderOfCheckpoints(t *testing.T) {
	older, newer := catalog.CheckpointRef{Key: "older"}, catalog.CheckpointRef{Key: "newer"}
	r := New([]catalog.Slot{
		{Slot: 0, Checkpoints: []catalog.CheckpointRef{newer}},
		{Slot: 1, Checkpoints: []catalog.CheckpointRef{older, newer}},
		{Slot: 2, Checkpoints: []catalog.CheckpointRef{older}},
	}, all)
	var keys []string
	for key, ok := r.NextCheckpoint(); ok; key, ok = r.NextCheckpoint() {
		keys = append(keys, key)
	}
	if diff := cmp.Diff([]string{"older", "newer"}, keys); diff != "" {
		t.Error(diff)
	}
}

// TestToAndFro: a partition went from one session to another and back. Its slices come
// in the order in which they were written, whatever else lies in those objects.
func TestToAndFro(t *testing.T) {
	tp := kafka.TopicPartition{Partition: 1}
	object := func(base kafka.Offset, seq int64) (string, *bundle.Object) {
		return fmt.Sprint("object of ", base), &bundle.Object{Slices: []bundle.Slice{{TP: tp, Batches: []bundle.Batch{
			{BaseOffset: base, ProducerID: -1, ControlType: -1, Len: 1},
		}}}}
	}
	wals := map[catalog.SessionID]map[int64]kafka.Offset{a: {2: 0, 3: 1, 6: 4}, b: {5: 2, 6: 3}}
	r := New([]catalog.Slot{{Spans: []catalog.Span{span(a, 2, 4), span(b, 4, 7), span(a, 0, -1)}}}, all)
	for run, ok := r.Next(); ok; run, ok = r.Next() {
		for seq := run.From; seq < 8 && (run.To < 0 || seq < run.To); seq++ {
			base, there := wals[run.Session][seq]
			if !there {
				continue
			}
			key, o := object(base, seq)
			if err := r.WAL(run.Session, seq, key, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	if tail := r.Tails()[tp]; tail == nil || tail.State.NextOffset != 5 || len(tail.Hot) != 5 {
		t.Errorf("recovered %+v", tail)
	}
}
