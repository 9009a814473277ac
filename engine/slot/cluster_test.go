package slot

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore/memstore"
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

// TestLogStartBetweenCheckpoints: of what lies below the log's start an older checkpoint has a part, and
// the rest was in the WAL only; who takes over finds the one without the other.
func TestLogStartBetweenCheckpoints(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		a := r.start(1, "wal.checkpoint.objects", "100000")
		r.until("all", 10*time.Second, holding(map[*node]int{a: slots}))
		m := a.m.Load()
		time.Sleep(time.Second)
		checkpoint := func() {
			if err := m.keeper.ask(ctx, m.keeper.checkpoint); err != nil {
				t.Fatal(err)
			}
		}
		checkpoint()
		l, _ := a.log(0)
		end := func() kafka.Offset { return l.Snapshot().State.NextOffset }
		for before := end(); end() < before+3; {
			time.Sleep(10 * time.Millisecond)
		}
		start := end()
		slot, _ := m.Slot(l.Slot())
		if err := a.cat.SetLogStart(ctx, slot, l.TP(), start); err != nil {
			t.Fatal(err)
		}
		l.SetLogStart(start)
		r.forget(0, start)
		checkpoint()
		a.kill()
		r.start(2)
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

// beginning has a broker that was killed begin a session while reads of objects
// take a third of the session timeout each. The other broker has its own slots.
func beginning(r *rig) (other, begins *node) {
	quick := []string{"broker.session.timeout.ms", "1500", "broker.heartbeat.interval.ms", "200"}
	a, b := r.start(1, quick...), r.start(2, quick...)
	r.until("half each", 10*time.Second, holding(map[*node]int{a: 6, b: 6}))
	time.Sleep(time.Second)
	a.kill()
	b.kill()
	a = r.start(1, quick...)
	r.until("its own", time.Second, holding(map[*node]int{a: 6}))
	r.store.SetFault(func(op memstore.Op, _ string) memstore.Fault {
		if op == memstore.OpPut {
			return memstore.Fault{}
		}
		return memstore.Fault{Kind: memstore.Delay, After: 500 * time.Millisecond}
	})
	return a, r.start(2, quick...)
}

// TestSlowBeginning: a session that takes longer to begin than the session
// timeout is not taken for dead.
func TestSlowBeginning(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		_, b := beginning(r)
		took := r.until("it has begun", time.Minute, func() bool { return b.m.Load() != nil })
		if took < 1500*time.Millisecond {
			t.Errorf("the beginning took only %v", took)
		}
		if id := b.m.Load().Session().ID; id.Epoch != 1 || b.held() == 0 {
			t.Errorf("it was ended: the broker goes on as %v with %d slots", id, b.held())
		}
	})
}

// TestStoppedBeginning: a session that others end while it begins is given up
// for another one.
func TestStoppedBeginning(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := beginning(r)
		time.Sleep(200 * time.Millisecond)
		b.gate.set(paused)
		r.until("all", time.Minute, holding(map[*node]int{a: slots}))
		b.gate.set(open)
		r.until("another has begun", 10*time.Second, func() bool { return b.m.Load() != nil })
		if id := b.m.Load().Session().ID; id.Epoch != 2 {
			t.Errorf("the broker goes on as %v", id)
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

// handOver hands a slot over that has a record of a's, without telling a: its answer is on the way.
func (r *rig) handOver(a, b *node) (p int32, held []catalog.Slot, logs []*partition.Log) {
	r.t.Helper()
	for r.owner(p) != a {
		p++
	}
	if err := a.append(r.t.Context(), p, "by the giver"); err != nil {
		r.t.Fatal(err)
	}
	l, _ := a.log(p)
	m, to := a.m.Load(), b.m.Load().mine()
	held, logs = m.stop([]kafka.Slot{l.Slot()})
	if err := m.wal.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if _, err := a.cat.HandOver(r.t.Context(), m.mine(), to, handedOver(held, m.session.ID, m.wal.Position().Durable, catalog.Heartbeat{Session: to.ID})); err != nil {
		r.t.Fatal(err)
	}
	return p, held, logs
}

// TestTargetEndsWhileGiven: the target is ended before the giver has the answer to its hand-over.
// The giver takes the slot back only behind that, with all that is in it.
func TestTargetEndsWhileGiven(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.start(1), r.start(2)
		r.until("half each", 10*time.Second, holding(map[*node]int{a: 6, b: 6}))
		time.Sleep(3 * time.Second)
		p, held, logs := r.handOver(a, b)
		b.kill()
		r.until("all others", 20*time.Second, holding(map[*node]int{a: slots - 1}))
		time.Sleep(5 * time.Second)
		a.m.Load().forget(held, logs)
		r.until("that too", 5*time.Second, holding(map[*node]int{a: slots}))
		r.until("its partition", time.Second, func() bool { return r.owner(p) == a })
	})
}

// TestTakeWhatIsLeft: of slots that are taken together, some have been taken meanwhile.
func TestTakeWhatIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		a := r.start(1)
		r.until("all", 10*time.Second, holding(map[*node]int{a: slots}))
		a.kill()
		o := a.opts
		o.Broker, o.Catalog, o.Store, o.View = 2, r.admin, r.store, &member.View{Catalog: r.admin, Slots: slots}
		m, err := Begin(ctx, o) // it does not run, so it takes what it is told to
		if err != nil {
			t.Fatal(err)
		}
		if err := endSession(ctx, &o, a.m.Load().session.ID, originOf(m.session)); err != nil {
			t.Fatal(err)
		}
		before, sessions, err := m.read(ctx, []kafka.Slot{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
		if err != nil {
			t.Fatal(err)
		}
		for _, attempt := range []struct{ from, to, want int }{{2, 3, 1}, {1, 4, 2}, {0, 12, 9}, {0, 12, 0}} {
			got, err := m.take(ctx, slices.Clone(before[attempt.from:attempt.to]), sessions, nil)
			if err != nil || len(got) != attempt.want {
				t.Errorf("%v: %d slots taken: %v", attempt, len(got), err)
			}
		}
		r.start(3) // it ends who doesn't run
	})
}

// TestHeirTakesForAll: behind an end the feed grows by three changes, however many take slots: fenced,
// sealed, and one that gives the slots to all. Where the heir does nothing, others take their own.
func TestHeirTakesForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		a, b, c := r.start(1), r.start(2), r.start(3)
		r.until("a third each", 10*time.Second, holding(map[*node]int{a: 4, b: 4, c: 4}))
		time.Sleep(3 * time.Second)
		applied := func() int64 {
			if err := r.admin.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			return r.admin.Applied()
		}
		before := applied()
		c.kill()
		r.until("half each", 10*time.Second, holding(map[*node]int{a: 6, b: 6}))
		if n := applied() - before; n != 3 {
			t.Errorf("%d changes behind a kill, want 3", n)
		}

		o := a.opts
		o.Broker, o.Addr, o.Catalog, o.Store, o.View, o.Follows = 5, "b5:9092", r.admin, r.store, &member.View{Catalog: r.admin, Slots: slots}, nil
		idle, err := Begin(ctx, o) // it does not run, so it takes nothing
		if err != nil {
			t.Fatal(err)
		}
		d := r.start(6)
		r.until("a quarter goes to who runs", 10*time.Second, func() bool { return d.held() >= 3 }) // 4, if both give the last
		gone := d.m.Load()
		d.kill()
		if err := endSession(ctx, &o, gone.session.ID, originOf(idle.session)); err != nil {
			t.Fatal(err)
		}
		if heir, ok := a.m.Load().o.View.Now().Heir(gone.session.ID); ok && heir != idle.session.ID {
			t.Fatalf("%v is the heir", heir)
		}
		if err := r.admin.AlterPlacement(ctx, func(p *catalog.Placement) {
			p.Pins = make(map[kafka.Slot]int32)
			for s := range kafka.Slot(slots) {
				p.Pins[s] = 1
			}
		}); err != nil {
			t.Fatal(err)
		}
		beat := catalog.Heartbeat{Session: idle.session.ID} // else somebody else is the heir by and by
		took := r.until("all, though the heir does nothing", 10*time.Second, func() bool {
			if beat, err = r.admin.Renew(ctx, beat); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			if err := r.admin.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			lost := 0 // was given to the heir before, which does not give it on
			for n := range kafka.Slot(slots) {
				if o.View.Now().Owner(n).Session == idle.session.ID {
					lost++
				}
			}
			return a.held() == slots-lost
		})
		if _, live := r.admin.Members().Session(idle.session.ID); !live {
			t.Errorf("the heir was ended, after %v", took)
		}
	})
}

// TestRaisedWhileTaken: a job raises a log's start behind the read of what an ended session has
// left, before the slot is open again. The records below it have gone by then.
func TestRaisedWhileTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		a := r.start(1)
		r.until("all", 10*time.Second, holding(map[*node]int{a: slots}))
		time.Sleep(time.Second)
		a.kill()
		o := a.opts
		o.Broker, o.Catalog, o.Store, o.View, o.Logs, o.Follows = 2, r.admin, r.store, &member.View{Catalog: r.admin, Slots: slots}, partition.NewSet(), nil
		m, err := Begin(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := endSession(ctx, &o, a.m.Load().session.ID, originOf(m.session)); err != nil {
			t.Fatal(err)
		}
		tp := kafka.TopicPartition{Topic: r.topic.ID, Partition: 0}
		slot := kafka.PartitionSlot(r.topic.Name, 0, slots)
		before, sessions, err := m.readEnded(ctx, []kafka.Slot{slot})
		if err != nil {
			t.Fatal(err)
		}
		l, err := m.readLeft(ctx, before, sessions)
		if err != nil {
			t.Fatal(err)
		}
		start := l.tails[tp].State.NextOffset - 1
		lease, err := r.admin.AcquireLease(ctx, "retention", "test", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.admin.RaiseLogStarts(ctx, lease, []catalog.LogStart{{Slot: slot, TP: tp, Topic: r.topic.Name, Offset: start}}); err != nil {
			t.Fatal(err)
		}
		taken, err := m.take(ctx, before, sessions, nil)
		if err != nil || len(taken) != 1 {
			t.Fatal(taken, err)
		}
		if err := m.install(ctx, taken, l, nil); err != nil {
			t.Fatal(err)
		}
		log, _ := o.Logs.Get(tp)
		if got := log.Offsets().LogStart; got != start {
			t.Errorf("the log starts at %d, want %d", got, start)
		}
		if at := m.StartsRead(slot); at < r.admin.Topics().StartsRaised(slot) {
			t.Errorf("starts are known up to change %d, raised at %d", at, r.admin.Topics().StartsRaised(slot))
		}
		r.forget(0, start)
		r.start(3)
	})
}

// TestPrepared: what was prepared is of use as long as a slot has changed hands but once since.
func TestPrepared(t *testing.T) {
	p := prepared{slots: map[kafka.Slot]catalog.Slot{1: {Epoch: 3}, 2: {Epoch: 0}}}
	for _, c := range []struct {
		want  bool
		slots []catalog.Slot
	}{
		{true, []catalog.Slot{{Slot: 1, Epoch: 4}}},
		{true, []catalog.Slot{{Slot: 1, Epoch: 4}, {Slot: 2, Epoch: 1}}},
		{false, []catalog.Slot{{Slot: 1, Epoch: 5}}},
		{false, []catalog.Slot{{Slot: 1, Epoch: 4}, {Slot: 3, Epoch: 1}}},
	} {
		if got := p.has(c.slots); got != c.want {
			t.Errorf("%+v: %v", c.slots, got)
		}
	}
}

// TestHandedBackWhileSettled: a hand-over whose outcome is not known was applied, the target
// has written, and has handed the slot back, before who gave it looks. What he has of it is too old by then.
func TestHandedBackWhileSettled(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		a, b := r.start(1), r.start(2)
		r.until("half each", 10*time.Second, holding(map[*node]int{a: 6, b: 6}))
		time.Sleep(3 * time.Second)
		p, held, logs := r.handOver(a, b)
		m := a.m.Load()
		r.until("the target's", time.Second, func() bool { _, ok := b.log(p); return ok })
		if err := b.append(ctx, p, "by the target"); err != nil {
			t.Fatal(err)
		}
		if err := r.admin.AlterPlacement(ctx, func(p *catalog.Placement) { p.Drained = []int32{2} }); err != nil {
			t.Fatal(err)
		}
		r.until("given back", 10*time.Second, func() bool {
			s, err := r.admin.Slot(ctx, held[0].Slot)
			return err == nil && s.Owner == m.session.ID
		})
		if err := m.keeper.settle(ctx, held, logs); err != nil {
			t.Fatal(err)
		}
		r.until("the giver's again", time.Second, func() bool { return r.owner(p) == a })
	})
}

// TestTakes: slots and their former owners fit into one commit.
func TestTakes(t *testing.T) {
	for _, c := range []struct {
		slots, owners int
		want          []int
	}{{1, 1, []int{1}}, {96, 1, []int{96}}, {97, 1, []int{96, 1}}, {256, 3, []int{94, 94, 68}}, {100, 100, []int{48, 48, 4}}} {
		var all []catalog.Slot
		for i := range c.slots {
			all = append(all, catalog.Slot{Slot: kafka.Slot(i), Owner: catalog.SessionID{Broker: int32(i % c.owners)}})
		}
		var got []int
		for _, b := range takes(all, nil) {
			got = append(got, len(b))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d slots of %d owners: batches of %d, want %d", c.slots, c.owners, got, c.want)
		}
	}
	var all []catalog.Slot
	to := make(map[kafka.Slot]catalog.SessionID)
	for i := range 96 {
		all = append(all, catalog.Slot{Slot: kafka.Slot(i)})
		to[kafka.Slot(i)] = catalog.SessionID{Broker: 1 + int32(i)%10}
	}
	if b := takes(all, to); len(b) != 2 || len(b[0]) != takeBatch-11 {
		t.Errorf("96 slots of one owner for ten: batches of %d, %d", len(b[0]), len(b[1]))
	}
}
