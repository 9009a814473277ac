package slot

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestSilence: clients are not sent to a broker that has stopped, before it is taken over from; and are again when it goes
// on, also where the others cannot see that because the catalogue is away.
func TestSilence(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var away atomic.Bool
		r.meta.Hook = func(string, []meta.Op) memmeta.Fault {
			return memmeta.Fault{Fail: away.Load(), Before: time.Millisecond, After: time.Millisecond}
		}
		a, b, c := r.start(1), r.start(2), r.start(3)
		r.until("a third each", 10*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		time.Sleep(2 * time.Second)
		session := c.m.Load().Session().ID
		named := func(brokers, silent int) func() bool {
			return func() bool {
				for _, n := range []*node{a, b} {
					if now := n.opts.View.Now(); len(now.Brokers) != brokers || len(now.Silent) != silent {
						return false
					}
				}
				return true
			}
		}
		for _, tt := range []struct {
			without bool
			limit   time.Duration
		}{{false, 1600 * time.Millisecond}, {true, 7 * time.Second}} { // a look fails after the session timeout
			c.gate.set(paused)
			r.until("clients are sent elsewhere", 5*time.Second, named(2, 1))
			away.Store(tt.without)
			c.gate.set(open)
			r.until("clients are sent to it again", tt.limit, named(3, 0))
			time.Sleep(20 * time.Second)
			if away.Store(false); !named(3, 0)() {
				t.Errorf("catalogue away: %v: clients are not sent to it, 20 s behind its return", tt.without)
			}
			time.Sleep(5 * time.Second)
		}
		if now := c.m.Load().Session().ID; now != session {
			t.Errorf("its session was ended: it goes on as %v", now)
		}
	})
}
