package member

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

func session(broker int32) catalog.SessionID { return catalog.SessionID{Broker: broker} }

func nodes(brokers ...int32) []Node {
	var all []Node
	for _, b := range brokers {
		all = append(all, Node{Session: session(b)})
	}
	return all
}

// owners reads "1 2 -": slots of brokers 1 and 2, and one that nobody owns.
func owners(text string) []catalog.Owner {
	var all []catalog.Owner
	for _, f := range strings.Fields(text) {
		o := catalog.Owner{Epoch: -1}
		if f != "-" {
			o.Epoch = 0
			if _, err := fmt.Sscan(f, &o.Session.Broker); err != nil {
				panic(err)
			}
		}
		all = append(all, o)
	}
	return all
}

func text(to []catalog.SessionID) string {
	var words []string
	for _, s := range to {
		words = append(words, fmt.Sprint(s.Broker))
	}
	return strings.Join(words, " ")
}

func owning(to []catalog.SessionID) []catalog.Owner {
	all := make([]catalog.Owner, len(to))
	for i, s := range to {
		all[i] = catalog.Owner{Session: s}
	}
	return all
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		name   string
		nodes  []Node
		owners string
		pins   map[kafka.Slot]int32
		want   string
	}{
		{"nobody", nil, "- -", nil, ""},
		{"alone", nodes(1), "- - - -", nil, "1 1 1 1"},
		{"a new cluster", nodes(1, 2, 3), "- - - - - -", nil, "1 2 3 1 2 3"},
		{"a second comes", nodes(1, 2), "1 1 1 1", nil, "2 1 2 1"},
		{"a third comes", nodes(1, 2, 3), "2 1 2 1 2 1", nil, "3 1 2 3 2 1"},
		{"one of three has gone", nodes(1, 3), "3 1 2 3 2 1", nil, "3 1 1 3 3 1"},
		{"balanced stays", nodes(1, 2), "1 1 2 2 1", nil, "1 1 2 2 1"},
		{"one is drained", []Node{{Session: session(1), Drained: true}, {Session: session(2)}}, "1 2 1 2", nil, "2 2 2 2"},
		{"all are drained", []Node{{Session: session(1), Drained: true}, {Session: session(2), Drained: true}}, "1 2 1 2", nil, "1 2 1 2"},
		{"a pin goes before balance", nodes(1, 2), "1 2 1 2", map[kafka.Slot]int32{1: 1}, "2 1 1 2"},
		{"a pin to one who is not there", nodes(1, 2), "1 2 1 2", map[kafka.Slot]int32{1: 7}, "1 2 1 2"},
		{"an older session of the same broker", []Node{{Session: catalog.SessionID{Broker: 1, Epoch: 1}}, {Session: session(1)}}, "1 -", nil, "1 1"},
		{"racks alternate", []Node{{Session: session(1), Rack: "a"}, {Session: session(2), Rack: "a"}, {Session: session(3), Rack: "b"}, {Session: session(4), Rack: "b"}},
			"- - - -", nil, "1 3 2 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Assign(c.nodes, owners(c.owners), c.pins)
			if diff := cmp.Diff(c.want, text(got)); diff != "" {
				t.Error(diff)
			}
			for _, s := range got {
				if c.name == "an older session of the same broker" && s.Epoch != 1 {
					t.Error("the older session owns a slot")
				}
			}
		})
	}
}

// TestAssignProperties: even, few moves, the same whatever the order of nodes, and at rest after one round.
func TestAssignProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 64).Draw(t, "slots")
		live := rapid.SliceOfNDistinct(rapid.Int32Range(1, 9), 1, 6, rapid.ID).Draw(t, "live")
		today := make([]catalog.Owner, slots)
		for i := range today {
			today[i] = catalog.Owner{Session: session(rapid.Int32Range(1, 9).Draw(t, "owner")), Epoch: kafka.LeaderEpoch(rapid.IntRange(-1, 1).Draw(t, "epoch"))}
		}
		to := Assign(nodes(live...), today, nil)
		count, before := map[int32]int{}, map[int32]int{}
		moved := 0
		for i, s := range to {
			count[s.Broker]++
			mine := today[i].Epoch >= 0 && slices.Contains(live, today[i].Session.Broker)
			if mine {
				before[today[i].Session.Broker]++
			}
			if mine && today[i].Session != s {
				moved++
			}
		}
		least, surplus := slots/len(live), 0
		rest := slots % len(live)
		counts := []int{}
		for _, b := range live {
			counts = append(counts, before[b])
			if count[b] < least || count[b] > least+1 {
				t.Fatalf("broker %d has %d of %d slots among %d", b, count[b], slots, len(live))
			}
		}
		slices.Sort(counts)
		slices.Reverse(counts)
		for i, n := range counts {
			q := least
			if i < rest {
				q++
			}
			surplus += max(0, n-q)
		}
		if moved != surplus {
			t.Fatalf("%d slots moved, %d had to", moved, surplus)
		}
		slices.Reverse(live)
		if again := Assign(nodes(live...), today, nil); !slices.Equal(to, again) {
			t.Fatalf("depends on the order: %s and %s", text(to), text(again))
		}
		if again := Assign(nodes(live...), owning(to), nil); !slices.Equal(to, again) {
			t.Fatalf("not at rest: %s and then %s", text(to), text(again))
		}
	})
}

// TestNeighboursLieApart: as brokers come, partitions of a topic stay spread.
func TestNeighboursLieApart(t *testing.T) {
	today := make([]catalog.Owner, 256)
	for i := range today {
		today[i].Epoch = -1
	}
	var all []int32
	for b := range int32(5) {
		all = append(all, b)
		to := Assign(nodes(all...), today, nil)
		today = owning(to)
		together := 0
		for i := range to {
			if to[i] == to[(i+1)%len(to)] {
				together++
			}
		}
		if b > 0 && together > len(to)/8 {
			t.Errorf("%d brokers: %d of %d slots have a neighbour at the same broker", b+1, together, len(to))
		}
	}
}
