package catalog

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

var exact = cmp.AllowUnexported(Session{}, Slot{}, Topic{}, Segment{})

// roundTrip checks that what an item's attributes were made of comes back.
func roundTrip[T any](t *rapid.T, v T, sk string, attrs meta.Attrs, decode func(meta.Item) (T, error)) {
	t.Helper()
	item := meta.Item{Key: meta.Key{PK: "pk", SK: sk}, Attrs: attrs}
	if err := meta.Validate("id", []meta.Op{meta.Create(item.Key, attrs)}); err != nil {
		t.Fatal(err)
	}
	back, err := decode(item)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, back, exact); diff != "" {
		t.Fatalf("%v\n%s", attrs, diff)
	}
}

// text draws strings as JSON can hold them; offsets' metadata and names come
// from the wire, where what is not UTF-8 has been refused or replaced.
var text = rapid.StringN(0, 50, 200)

func key(sk string) meta.Item { return meta.Item{Key: meta.Key{PK: "pk", SK: sk}} }

func TestItemsComeBack(t *testing.T) {
	i64, i32 := rapid.Int64(), rapid.Int32()
	id := rapid.Custom(func(t *rapid.T) SessionID { return SessionID{i32.Draw(t, "broker"), i64.Draw(t, "epoch")} })
	topicID := rapid.Custom(func(t *rapid.T) (id kafka.TopicID) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "topic id"))
		return id
	})
	rapid.Check(t, func(t *rapid.T) {
		sess := Session{
			ID: id.Draw(t, "id"), Nonce: topicID.Draw(t, "nonce"), State: rapid.SampledFrom([]SessionState{Live, Fenced, Sealed}).Draw(t, "state"),
			SealedAt: i64.Draw(t, "sealed"), Trim: i64.Draw(t, "trim"), Addr: text.Draw(t, "addr"), Rack: text.Draw(t, "rack"), item: key("s"),
		}
		roundTrip(t, sess, "s", sess.attrs(), sessionOf)

		span := rapid.Custom(func(t *rapid.T) Span { return Span{id.Draw(t, "id"), i64.Draw(t, "from"), i64.Draw(t, "to")} })
		ref := rapid.Custom(func(t *rapid.T) CheckpointRef { return CheckpointRef{text.Draw(t, "key"), i64.Draw(t, "size")} })
		slot := Slot{
			Slot: kafka.Slot(i32.Draw(t, "slot")), Epoch: kafka.LeaderEpoch(i32.Draw(t, "epoch")), Owner: id.Draw(t, "owner"),
			Spans: rapid.SliceOf(span).Draw(t, "spans"), Checkpoints: rapid.SliceOf(ref).Draw(t, "checkpoints"), item: key("s"),
		}
		roundTrip(t, slot, "s", slot.attrs(), slotOf)

		topic := Topic{
			Name: "name", ID: topicID.Draw(t, "id"), Partitions: i32.Draw(t, "n"), ReplicationFactor: rapid.Int16().Draw(t, "rf"),
			Configs: rapid.MapOf(text, text).Draw(t, "configs"), item: key("name"),
		}
		roundTrip(t, topic, "name", topic.attrs(), func(it meta.Item) (Topic, error) {
			t, err := topicOf(it)
			if err != nil {
				return Topic{}, err
			}
			return *t, nil
		})

		tp := kafka.TopicPartition{Topic: topic.ID, Partition: i32.Draw(t, "partition")}
		start := rapid.Custom(func(t *rapid.T) EpochStart {
			return EpochStart{kafka.LeaderEpoch(i32.Draw(t, "epoch")), kafka.Offset(i64.Draw(t, "start"))}
		})
		seg := Segment{
			TP: tp, Base: kafka.Offset(i64.Draw(t, "base")), End: kafka.Offset(i64.Draw(t, "end")), Key: text.Draw(t, "key"), Size: i64.Draw(t, "size"),
			RawSize: i64.Draw(t, "raw"), Records: i64.Draw(t, "records"), FirstTimestamp: i64.Draw(t, "first"), MaxTimestamp: i64.Draw(t, "max"),
			FooterLen: i64.Draw(t, "footer"), CreatedMs: i64.Draw(t, "created"), Epochs: rapid.SliceOf(start).Draw(t, "epochs"), item: key("s"),
		}
		roundTrip(t, seg, "s", seg.attrs(), func(it meta.Item) (Segment, error) { return segmentOf(tp, it) })

		offset := rapid.Custom(func(t *rapid.T) *GroupOffset {
			return &GroupOffset{
				kafka.Offset(i64.Draw(t, "offset")), kafka.LeaderEpoch(i32.Draw(t, "epoch")), text.Draw(t, "metadata"), i64.Draw(t, "commit"), i64.Draw(t, "order"), i64.Draw(t, "expire"),
			}
		})
		run := rapid.MapOf(rapid.Int32Min(0), offset).Draw(t, "run")
		merged, err := mergeRun(meta.Item{}, run)
		if err != nil {
			t.Fatal(err)
		}
		_, back, err := runOf(meta.Item{Attrs: meta.Attrs{"v": format, "topic": topic.ID.Hex(), "offsets": merged}})
		if err != nil || len(back) != len(run) {
			t.Fatalf("%d of %d offsets, %v", len(back), len(run), err)
		}
		for p, o := range run {
			if back[p] != *o {
				t.Fatalf("partition %d: %+v, want %+v", p, back[p], *o)
			}
		}
	})
}

func TestNewerFormatIsRefused(t *testing.T) {
	attrs := Session{}.attrs()
	attrs["v"] = format + 1
	if _, err := sessionOf(meta.Item{Attrs: attrs}); err == nil {
		t.Fatal("read")
	}
}

// FuzzItems reads items with any text and number in all places: errors, no panics.
func FuzzItems(f *testing.F) {
	for _, s := range []string{"", "{}", "[]", "null", `[{"s":{"b":1,"e":2},"f":3,"t":-1}]`, `{"1":{"o":5}}`, `{"-1":{}}`, `{"x":{}}`, `{"a":"b"}`, "00000000000000000000000000000000"} {
		f.Add(s, int64(1), []byte(s))
	}
	f.Fuzz(func(t *testing.T, s string, n int64, b []byte) {
		kinds := map[string]meta.Attrs{
			"session": Session{}.attrs(), "slot": Slot{}.attrs(), "topic": Topic{}.attrs(), "segment": Segment{}.attrs(),
			"run": {"v": format, "topic": kafka.TopicID{}.Hex(), "offsets": "{}"}, "group": {"v": format, "value": []byte{}},
		}
		for kind, attrs := range kinds {
			for name := range attrs {
				for _, v := range []any{s, n, b, nil} {
					it := meta.Item{Key: meta.Key{PK: "pk", SK: stateSK}, Version: 1, Attrs: meta.Attrs{}}
					for k, old := range attrs {
						it.Attrs[k] = old
					}
					it.Attrs[name] = v
					decodeAs(kind, it)
				}
			}
		}
	})
}

func decodeAs(kind string, it meta.Item) {
	switch kind {
	case "session":
		_, _ = sessionOf(it)
	case "slot":
		_, _ = slotOf(it)
	case "topic":
		_, _ = topicOf(it)
	case "segment":
		_, _ = segmentOf(kafka.TopicPartition{}, it)
	case "run":
		_, _, _ = runOf(it)
	case "group":
		_ = new(GroupState).fill([]meta.Item{it})
	}
}
