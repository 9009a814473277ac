package slot

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// inBubble runs a story of a cluster under writes, and checks what was acknowledged.
func inBubble(t *testing.T, story func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.end()
		stop := make(chan struct{})
		written := r.write(stop)
		func() {
			defer close(stop)
			story(t, r)
			time.Sleep(2 * time.Second)
		}()
		written()
		r.check()
	})
}

func TestAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		n := r.start(1)
		r.until("all slots", time.Second, holding(map[*node]int{n: slots}))
		time.Sleep(time.Minute)
		n.leave()
		n = r.start(1)
		r.until("all slots again", time.Second, holding(map[*node]int{n: slots}))
	})
}

func TestThreeAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.start(1), r.start(2), r.start(3)
		took := r.until("a third each", 10*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		t.Logf("balanced after %v", took)
		time.Sleep(20 * time.Second)
		if s := r.sessions(); len(s) != 3 {
			t.Errorf("sessions: %+v", s)
		}
	})
}

func TestComingAndLeaving(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.start(1)
		r.until("alone", time.Second, holding(map[*node]int{a: slots}))
		b := r.start(2)
		r.until("half each", 5*time.Second, holding(map[*node]int{a: 6, b: 6}))
		c := r.start(3)
		r.until("a third each", 5*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		for _, n := range []*node{a, b} {
			time.Sleep(time.Second)
			n.leave()
		}
		r.until("all at the last one", time.Second, holding(map[*node]int{c: slots}))
		for _, s := range r.sessions() {
			if s.State == catalog.Fenced {
				t.Errorf("session %+v is not sealed", s)
			}
		}
	})
}

func TestKilled(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.start(1), r.start(2), r.start(3)
		r.until("a third each", 10*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		time.Sleep(3 * time.Second)
		b.kill()
		took := r.until("half each", time.Second, holding(map[*node]int{a: 6, c: 6}))
		t.Logf("one of three killed: taken over after %v", took)
		time.Sleep(3 * time.Second)
		c.kill()
		took = r.until("all", time.Second, holding(map[*node]int{a: slots}))
		t.Logf("one of two killed: taken over after %v", took)
		b = r.start(2)
		r.until("half each", 5*time.Second, holding(map[*node]int{a: 6, b: 6}))
	})
}

// TestSealedBehindTheCheckpoint: who takes over serves before it knows what its
// predecessor has sealed since the last checkpoint, and finds out soon.
func TestSealedBehindTheCheckpoint(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.start(1, "wal.checkpoint.objects", "100000", "log.roll.ms", "500"), r.start(2)
		r.until("half each", 10*time.Second, holding(map[*node]int{a: 6, b: 6}))
		var p int32
		for _, held := a.log(p); !held; _, held = a.log(p) {
			p++
		}
		l, _ := a.log(p)
		given := l.SealedEnd() // in the checkpoint before the hand-over, perhaps
		r.until("something sealed", 20*time.Second, func() bool { return l.SealedEnd() > given })
		sealed := l.SealedEnd()
		a.kill()
		r.until("taken over", 10*time.Second, func() bool { _, ok := b.log(p); return ok })
		l, _ = b.log(p)
		r.until("sealed records known", 2*keeperPeriod, func() bool { return l.SealedEnd() >= sealed })
	})
}

// TestTwoKilledAtOnce: the one that is left cannot know that it is not itself
// cut off; it waits longer, and gives up on one at a time.
func TestTwoKilledAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.start(1), r.start(2), r.start(3)
		r.until("a third each", 10*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		b.kill()
		c.kill()
		took := r.until("all", time.Minute, holding(map[*node]int{a: slots}))
		t.Logf("two of three killed: taken over after %v", took)
	})
}

// TestZombie: a broker is stopped for longer than any timeout, its slots are
// taken, its WAL is trimmed; then it goes on where it was.
func TestZombie(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.start(1), r.start(2), r.start(3)
		r.until("a third each", 10*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		time.Sleep(2 * time.Second)
		for range 3 {
			before := b.m.Load().Session().ID
			b.gate.set(paused)
			took := r.until("half each", 8*time.Second, holding(map[*node]int{a: 6, c: 6}))
			t.Logf("stopped: taken over after %v", took)
			time.Sleep(30 * time.Second)
			b.gate.set(open)
			r.until("a third each again", 20*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
			if now := b.m.Load().Session().ID; now == before {
				t.Error("the zombie goes on with its session")
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// TestTwoWithOneID: the older process finds out and ends.
func TestTwoWithOneID(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.start(1)
		r.until("all", time.Second, holding(map[*node]int{a: slots}))
		b := r.start(1)
		r.until("all at the second", 10*time.Second, holding(map[*node]int{b: slots}))
		select {
		case <-a.done:
			if !errors.Is(a.err, catalog.ErrSuperseded) {
				t.Errorf("the first ended with %v", a.err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the first goes on")
		}
	})
}

func TestPlacement(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.start(1), r.start(2)
		r.until("half each", 10*time.Second, holding(map[*node]int{a: 6, b: 6}))
		if err := r.admin.AlterPlacement(t.Context(), func(p *catalog.Placement) { p.Drained = []int32{1} }); err != nil {
			t.Fatal(err)
		}
		took := r.until("drained", 5*time.Second, holding(map[*node]int{a: 0, b: slots}))
		t.Logf("drained after %v", took)
		if err := r.admin.AlterPlacement(t.Context(), func(p *catalog.Placement) { p.Drained = nil }); err != nil {
			t.Fatal(err)
		}
		r.until("half each", 5*time.Second, holding(map[*node]int{a: 6, b: 6}))
	})
}

func (r *rig) sessions() []catalog.Session {
	r.t.Helper()
	all, err := r.admin.AllSessions(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}
