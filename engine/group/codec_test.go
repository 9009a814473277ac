package group

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

func TestLargeStateIsDeflated(t *testing.T) {
	g := NewGroup()
	g.Limits.MaxSize = 1000
	for i := range 500 {
		g.Step(time.UnixMilli(0), Join{
			Token: Token(i + 1), ClientID: "client", NewID: string(rune('a'+i%26)) + string(rune('a'+i/26)), ProtocolType: "consumer",
			Protocols: []Protocol{{Name: "range", Metadata: bytes.Repeat([]byte("topic"), 100)}},
		})
	}
	b := encode(g, fence{Epoch: 3})
	if len(b) > 64<<10 || b[1] != 1 { // deflated
		t.Errorf("%d bytes, kind %d", len(b), b[1])
	}
	h, f, err := decode(b)
	if err != nil || f.Epoch != 3 || len(h.members) != 500 || !sameProtocols(h.members[499].Protocols, g.members[499].Protocols) {
		t.Errorf("decoded %d members, %v, %v", len(h.members), f, err)
	}
}

// TestDyingIsSavedAsEmpty: a group that dies, and whose items are not deleted yet, is one without members when it is read.
func TestDyingIsSavedAsEmpty(t *testing.T) {
	g := NewGroup()
	g.created = true
	g.die()
	if h, _, err := decode(encode(g, fence{})); err != nil || g.state != Dead || h.state != Empty {
		t.Errorf("%v of %v, %v", h, g.state, err)
	}
	old := catalog.SavedGroup{State: int(Dead)} // as it was saved before
	if h, _, err := decode(old.Encode()); err != nil || h.state != Empty {
		t.Errorf("%v, %v", h, err)
	}
}

func FuzzDecode(f *testing.F) {
	g := NewGroup()
	g.Step(time.UnixMilli(0), Join{Token: 1, ClientID: "c", NewID: "1", ProtocolType: "consumer", Protocols: []Protocol{{Name: "range"}}})
	f.Add(encode(g, fence{}))
	f.Add(encode(NewGroup(), fence{Broker: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, fence, err := decode(b)
		if err != nil {
			if !errors.Is(err, catalog.ErrCorruptGroup) {
				t.Fatal(err)
			}
			return
		}
		if _, again, err := decode(encode(g, fence)); err != nil || again != fence {
			t.Fatalf("decode what was encoded: %v", err)
		}
		g.resume(time.UnixMilli(0))
		g.Step(time.UnixMilli(1<<40), Tick{})
	})
}

func FuzzSubscription(f *testing.F) {
	f.Add(metadata("t0+t1"))
	f.Add([]byte{0, 0, 0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		names, ok := subscription(b)
		total := 0
		for _, n := range names {
			total += len(n) + 2
		}
		if ok && total > len(b) {
			t.Fatalf("%d bytes of names from %d", total, len(b))
		}
	})
}
