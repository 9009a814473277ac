package member

import (
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

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
