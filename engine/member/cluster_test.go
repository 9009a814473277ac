package member

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestSilentBroker: clients are told neither it nor a leader of its slots; who owns them, and who will, is as before.
func TestSilentBroker(t *testing.T) {
	cat := catalog.New(memmeta.New())
	view := &View{Catalog: cat, Slots: 2}
	var ids []catalog.SessionID
	for broker := range int32(3) {
		s, err := cat.StartSession(t.Context(), broker, "host:1", "")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.ID)
	}
	before := view.Now()
	leader, _ := before.Leader(0)
	if !view.Silent([]catalog.SessionID{ids[leader]}) {
		t.Error("a new silence is no change")
	}
	c := view.Now()
	if id, _ := c.Leader(0); id != -1 {
		t.Errorf("broker %d leads, want none: %d is silent", id, leader)
	}
	if other, _ := before.Leader(1); other == leader {
		t.Errorf("broker %d leads both slots", leader)
	} else if id, _ := c.Leader(1); id != other {
		t.Errorf("broker %d leads the other slot, want %d", id, other)
	}
	if _, ok := c.Broker(leader); ok || len(c.Brokers) != 2 {
		t.Errorf("clients are told of %v, and %d is silent", c.Brokers, leader)
	}
	if replicas := c.Replicas(0, 3); len(replicas) != 2 || slices.Contains(replicas, leader) {
		t.Errorf("replicas %v, want the other two than %d", replicas, leader)
	}
	if to, _ := c.Target(0); to != ids[leader] || !c.Lives(to) {
		t.Errorf("the slot's target is %v, want %v, which lives", to, ids[leader])
	}
	if view.Silent([]catalog.SessionID{ids[leader]}) || view.Now() != c {
		t.Error("a silence that goes on is a change")
	}
	view.Silent(nil)
	if diff := cmp.Diff(before.Brokers, view.Now().Brokers); diff != "" {
		t.Error(diff)
	}
}

// TestHeir: the one before on the ring of those that stay, by all that see the same.
func TestHeir(t *testing.T) {
	c := catalog.New(memmeta.New())
	begin := func(broker int32) catalog.Session {
		t.Helper()
		s, err := c.StartSession(t.Context(), broker, "host:1", "")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	heir := func(want, of catalog.SessionID, except ...catalog.SessionID) {
		t.Helper()
		if got, ok := NewCluster(c.Members(), 4).Heir(of, except...); !ok || got != want {
			t.Errorf("the heir of %v is %v (%v), want %v", of, got, ok, want)
		}
	}
	one := begin(1).ID
	if got, ok := NewCluster(c.Members(), 4).Heir(one); ok {
		t.Errorf("%v is the heir of the only one", got)
	}
	two, four := begin(2), begin(4).ID
	heir(two.ID, four)
	heir(one, two.ID)
	heir(four, one)
	heir(four, catalog.SessionID{Broker: 1, Epoch: -1}) // a session of before, of the same broker
	heir(two.ID, catalog.SessionID{Broker: 3})          // one that is not live
	heir(one, four, two.ID)
	if got, ok := NewCluster(c.Members(), 4).Heir(four, one, two.ID); ok {
		t.Errorf("%v is the heir though it is excepted", got)
	}
	newer := begin(2).ID
	heir(newer, four)
	heir(one, two.ID) // not what the same broker has begun behind it
	if _, err := c.AnnounceLeave(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	heir(newer, four) // it is the older that leaves
	s, err := c.Session(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AnnounceLeave(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	heir(one, four)
}
