package recovery_test

import (
	"errors"
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// TestDeletedTopic shows what an owner leaves behind that writes checkpoints
// before and after a topic is deleted, and has its WAL trimmed: a beginning and an end that
// do not fit together. Of a topic that is there that is a loss.
func TestDeletedTopic(t *testing.T) {
	session := catalog.SessionID{Broker: 1}
	slots := []catalog.Slot{{Slot: 7, Checkpoints: []catalog.CheckpointRef{{Key: "a"}, {Key: "b"}}, Spans: []catalog.Span{{Session: session, From: 5, To: -1}}}}
	gone, there := kafka.TopicPartition{Topic: kafka.TopicID{1}}, kafka.TopicPartition{Topic: kafka.TopicID{2}}
	slice := func(tp kafka.TopicPartition, at kafka.Offset) bundle.Slice {
		return bundle.Slice{Slot: 7, TP: tp, Batches: []bundle.Batch{{BaseOffset: at, ProducerID: -1, ControlType: -1}}}
	}
	state := func(tp kafka.TopicPartition, next kafka.Offset) bundle.State {
		return bundle.State{Slot: 7, TP: tp, NextOffset: next}
	}
	feed := func(known func(kafka.TopicID) bool) (map[kafka.TopicPartition]*recovery.Tail, error) {
		r := recovery.New(slots, known)
		for _, c := range []struct {
			key string
			o   bundle.Object
		}{
			{"a", bundle.Object{States: []bundle.State{state(gone, 1), state(there, 1)}, Slices: []bundle.Slice{slice(gone, 0), slice(there, 0)}}},
			{"b", bundle.Object{States: []bundle.State{state(there, 1)}}},
		} {
			if key, ok := r.NextCheckpoint(); !ok || key != c.key {
				t.Fatal(key, ok)
			}
			if err := r.Checkpoint(c.key, &c.o); err != nil {
				t.Fatal(err)
			}
		}
		if run, ok := r.Next(); !ok || run != slots[0].Spans[0] {
			t.Fatal(run, ok)
		}
		return r.Tails(), r.WAL(session, 5, "wal", &bundle.Object{Slices: []bundle.Slice{slice(gone, 4), slice(there, 1)}})
	}
	if _, err := feed(func(kafka.TopicID) bool { return true }); err == nil {
		t.Error("offsets 1 to 3 are missing, nobody says so")
	}
	tails, err := feed(func(id kafka.TopicID) bool { return id == there.Topic })
	if err != nil {
		t.Fatal(err)
	}
	if len(tails) != 1 || tails[there] == nil || tails[there].State.NextOffset != 2 || len(tails[there].Hot) != 2 {
		t.Errorf("%+v", tails)
	}
}

func TestFrom(t *testing.T) {
	ref := func(base, last kafka.Offset) bundle.Ref { return bundle.Ref{Base: base, Last: last} }
	for _, c := range []struct {
		name  string
		hot   []bundle.Ref
		start kafka.Offset
		left  int
		ok    bool
	}{
		{"nothing", nil, 0, 0, true},
		{"whole", []bundle.Ref{ref(5, 9), ref(10, 11), ref(12, 19)}, 0, 3, true},
		{"starts within", []bundle.Ref{ref(5, 9), ref(10, 11), ref(12, 19)}, 9, 3, true},
		{"a part below is gone", []bundle.Ref{ref(5, 9), ref(12, 19)}, 12, 1, true},
		{"all below, and a part of it is gone", []bundle.Ref{ref(5, 9)}, 20, 0, true},
		{"a part behind it is gone", []bundle.Ref{ref(5, 9), ref(12, 19)}, 9, 2, false},
		{"the end is gone", []bundle.Ref{ref(5, 9), ref(10, 11)}, 0, 2, false},
		{"behind the end", nil, 21, 0, false},
	} {
		tail := recovery.Tail{State: bundle.State{NextOffset: 20}, Hot: c.hot}
		err := tail.From(c.start)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, recovery.ErrInconsistent) || len(tail.Hot) != c.left {
			t.Errorf("%s: %d slices left, %v", c.name, len(tail.Hot), err)
		}
	}
}
