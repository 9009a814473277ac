package slot

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// slumber is how long nobody asks for anything, until slots are dormant.
const slumber = 5 * time.Second

// dormantRig is a broker of which all slots are dormant, with three records in each partition.
func dormantRig(t *testing.T, story func(t *testing.T, r *rig, n *node), more ...string) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.end()
		n := r.start(1, append([]string{"log.dormant.ms", "2000", "wal.checkpoint.objects", "100000"}, more...)...)
		r.until("all slots", time.Second, holding(map[*node]int{n: slots}))
		for i := range 3 {
			n.appendAll(i)
		}
		n.isDormant()
		story(t, r, n)
	})
}

// appendAll wakes all partitions and appends a record to each.
func (n *node) appendAll(i int) {
	n.r.t.Helper()
	for p := range int32(partitions) {
		n.wake(p)
		if err := n.append(n.r.t.Context(), p, fmt.Sprint(p, "-", i)); err != nil {
			n.r.t.Fatal(err)
		}
	}
}

func (n *node) slotOf(p int32) kafka.Slot { return kafka.PartitionSlot(n.r.topic.Name, p, slots) }

func (n *node) wake(p int32) {
	n.m.Load().Wake(n.r.t.Context(), slices.Values([]kafka.Slot{n.slotOf(p)}))
}

// isDormant waits until nothing is in memory of any log, and all is held.
func (n *node) isDormant() {
	n.r.t.Helper()
	n.r.until("all dormant", slumber, func() bool { return n.opts.Logs.Len() == 0 })
	if m := n.m.Load(); len(m.Owned()) != slots || m.Health().Dormant != slots {
		n.r.t.Errorf("%d slots are held, %d of them dormant, of %d", len(m.Owned()), m.Health().Dormant, slots)
	}
}

// checkpoints returns how many checkpoints have been written to the store, and not deleted.
func (r *rig) checkpoints() (n int) {
	for _, key := range r.store.Keys() {
		if strings.HasPrefix(key, "ckpt/") {
			n++
		}
	}
	return n
}

// wakeAll wakes all partitions, and compares their records with what was acknowledged.
func (n *node) wakeAll() {
	n.r.t.Helper()
	for p := range int32(partitions) {
		n.wake(p)
	}
	n.r.check()
}

// TestDormant: what nobody asks for is not in memory, and is as it was when somebody does.
func TestDormant(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		begin := time.Now()
		n.wake(0)
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("to wake took %v", took)
		}
		l, ok := n.log(0)
		if o := l.Offsets(); !ok || o.HighWatermark != 3 || o.Next != 3 || o.LogStart != 0 {
			t.Errorf("woken: %v %+v", ok, o)
		}
		n.wakeAll()
		n.appendAll(3)
		n.isDormant()
		n.wakeAll()
	})
}

// TestDormantSequences: a producer's window outlives the lull, and expires though it is never awake for long.
func TestDormantSequences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.end()
		n := r.start(1, "log.dormant.ms", "2000", "producer.id.expiration.ms", "3600000")
		r.until("all slots", time.Second, holding(map[*node]int{n: slots}))
		id := int64(7)
		send := func(seq int32) (kafka.Offset, bool, error) {
			n.wake(0)
			l, _ := n.log(0)
			b := record.NewBuilder(record.None)
			b.Append(time.Now().UnixMilli(), nil, []byte("v"))
			batch, err := b.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			h, err := record.ParseHeader(batch)
			if err != nil {
				t.Fatal(err)
			}
			h.ProducerID, h.ProducerEpoch, h.BaseSequence = id, 0, seq
			a, err := l.Append(batch, h)
			return a.Base, a.Duplicate, err
		}
		if off, _, err := send(0); off != 0 || err != nil {
			t.Fatal(off, err)
		}
		n.isDormant()
		if off, dup, err := send(0); off != 0 || !dup || err != nil {
			t.Errorf("sent again: offset %d, duplicate %v, %v", off, dup, err)
		}
		if _, _, err := send(2); err != kafka.OutOfOrderSequenceNumber {
			t.Errorf("a gap: %v", err)
		}
		if off, dup, err := send(1); off != 1 || dup || err != nil {
			t.Errorf("the next: offset %d, duplicate %v, %v", off, dup, err)
		}
		for range 8 {
			time.Sleep(9 * time.Minute)
			n.wake(0)
			n.isDormant()
		}
		id = 8
		if _, _, err := send(0); err != nil {
			t.Error(err)
		}
		n.isDormant()
		n.wake(0)
		l, _ := n.log(0)
		if left := l.Producers(); len(left) != 1 || left[0].ID != 8 {
			t.Errorf("producers %+v", left)
		}
	})
}

// TestDormantInVain: who asks while nothing can be read waits for a moment, those behind it not at all, and all is awake when that is over.
func TestDormantInVain(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		n.gate.set(paused)
		for p, want := range []time.Duration{wakeTimeout, 0, 0} {
			begin := time.Now()
			if n.wake(int32(p)); time.Since(begin) != want {
				t.Errorf("partition %d is waited for for %v", p, time.Since(begin))
			}
		}
		n.gate.set(open)
		r.until("awake", wakeTimeout, func() bool { _, ok := n.log(2); return ok })
		time.Sleep(wakeTimeout)
		n.wakeAll()
	})
}

// TestDormantAgain: slots that were only read from become dormant again without a write.
func TestDormantAgain(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		before, writes := r.checkpoints(), n.m.Load().keeper.uploads.Count.Load()
		for range 5 {
			n.wakeAll()
			n.isDormant()
		}
		if now := n.m.Load().keeper.uploads.Count.Load(); now != writes || r.checkpoints() != before {
			t.Errorf("%d checkpoints were written, %d are there, of %d", now-writes, r.checkpoints(), before)
		}
		if before > 3 {
			t.Errorf("%d checkpoints are named by slots that became dormant together", before)
		}
	})
}

// TestDormantTopicMadeAnew: a topic that is deleted and made anew while its slots are awake has what it
// is given, though that is as many records as before.
func TestDormantTopicMadeAnew(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		n.wakeAll()
		if err := r.admin.DeleteTopic(t.Context(), r.topic.Name, r.topic.ID); err != nil {
			t.Fatal(err)
		}
		topic, err := r.admin.CreateTopic(t.Context(), catalog.Topic{Name: r.topic.Name, Partitions: partitions})
		if err != nil {
			t.Fatal(err)
		}
		r.topic, r.acked = topic, map[int32]map[kafka.Offset]string{}
		r.until("the topic's logs", time.Second, func() bool { _, ok := n.log(partitions - 1); return ok })
		for i := range 3 {
			n.appendAll(10 + i)
		}
		n.isDormant()
		n.wakeAll()
	})
}

// TestDormantUnreadable: a slot whose checkpoint is gone keeps none of those asleep that are wanted with it.
func TestDormantUnreadable(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		m, broken := n.m.Load(), n.slotOf(0)
		m.mu.Lock()
		s := m.slots[broken]
		sound := s.Checkpoints
		s.Checkpoints = []catalog.CheckpointRef{{Key: "ckpt/0000000001/00000000000000000001/00000000000000099999", Size: sound[0].Size}}
		m.slots[broken] = s
		m.mu.Unlock()
		var all []kafka.Slot
		for p := range int32(partitions) {
			all = append(all, n.slotOf(p))
		}
		m.want(all...)
		r.until("the others are awake", time.Second, func() bool { return n.allOpenBut(broken) })
		if !m.Dormant(broken) {
			t.Error("it is awake, and nothing of it could be read")
		}
		m.mu.Lock()
		s.Checkpoints = sound
		m.slots[broken] = s
		m.mu.Unlock()
		n.wakeAll()
	})
}

// allOpenBut tells whether the logs of all slots are open but those of one.
func (n *node) allOpenBut(closed kafka.Slot) bool {
	for p := range int32(partitions) {
		if _, ok := n.log(p); ok == (n.slotOf(p) == closed) {
			return false
		}
	}
	return true
}

// TestDormantIsHeld: checkpoints go on beside dormant slots, which are handed over, and taken over, as others are.
func TestDormantIsHeld(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		m := n.m.Load()
		slot := func(p int32) catalog.Slot { s, _ := m.Slot(n.slotOf(p)); return s }
		busy := int32(1)
		for n.slotOf(busy) == n.slotOf(0) {
			busy++
		}
		was := slot(0)
		n.wake(busy)
		for i := range 30 {
			if err := n.append(t.Context(), busy, fmt.Sprint("more ", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.keeper.ask(t.Context(), m.keeper.checkpoint); err != nil {
			t.Fatal(err)
		}
		now := slot(0)
		if len(now.Checkpoints) != 1 || now.Checkpoints[0] != was.Checkpoints[0] || now.Spans[0].From <= was.Spans[0].From || !m.Dormant(now.Slot) {
			t.Errorf("a checkpoint beside it changed a dormant slot from %+v to %+v", was, now)
		}
		if got := slot(busy).Checkpoints; len(got) != 2 {
			t.Errorf("the busy slot names %+v", got)
		}
		n.isDormant()
		b := r.start(2)
		r.until("half each", 20*time.Second, holding(map[*node]int{n: slots / 2, b: slots / 2}))
		b.kill()
		r.until("all again", 20*time.Second, holding(map[*node]int{n: slots}))
		n.wakeAll()
		n.appendAll(9)
		n.isDormant()
		n.kill()
		r.start(3)
		r.check()
	})
}

// TestDormantWhileWoken: a record that is appended to a slot that wakes while a checkpoint is written is not lost.
func TestDormantWhileWoken(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		m := n.m.Load()
		busy := int32(1)
		for n.slotOf(busy) == n.slotOf(0) {
			busy++
		}
		n.wake(busy)
		if err := n.append(t.Context(), busy, "more"); err != nil {
			t.Fatal(err)
		}
		r.slow("ckpt/", 100*time.Millisecond)
		done := make(chan error)
		go func() { done <- m.keeper.ask(t.Context(), m.keeper.checkpoint) }()
		for i := 0; ; i++ {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				n.kill()
				r.start(2)
				r.check()
				return
			default:
			}
			n.wake(0)
			if err := n.append(t.Context(), 0, fmt.Sprint("woken ", i)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// slow has the PUTs of some objects take long.
func (r *rig) slow(prefix string, d time.Duration) {
	r.store.SetFault(func(op memstore.Op, key string) memstore.Fault {
		if op == memstore.OpPut && strings.HasPrefix(key, prefix) {
			return memstore.Fault{Kind: memstore.Delay, After: d}
		}
		return memstore.Fault{Kind: memstore.Delay, After: 2 * time.Millisecond}
	})
}

// TestDormantAmidAppend: a slot stays awake whose last record is not durable, and one that is appended to while its
// checkpoint is written.
func TestDormantAmidAppend(t *testing.T) {
	for _, slow := range []string{"wal/", "ckpt/"} {
		t.Run(slow, func(t *testing.T) {
			dormantRig(t, func(t *testing.T, r *rig, n *node) {
				r.slow(slow, 8*time.Second)
				for i := range 12 {
					n.wake(0)
					if err := n.append(t.Context(), 0, fmt.Sprint("amid ", i)); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Duration(2+i/4) * time.Second)
				}
				n.wakeAll()
			})
		})
	}
}

// TestDormantOnlyIdle: what is asked for stays as it is, and a change of the topics opens nothing that is dormant.
func TestDormantOnlyIdle(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		if _, err := r.admin.CreateTopic(t.Context(), catalog.Topic{Name: "other", Partitions: partitions, ReplicationFactor: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if open := n.opts.Logs.Len(); open > 0 {
			t.Errorf("%d logs of dormant slots are open", open)
		}
		n.wake(0)
		first, _ := n.log(0)
		for range 20 {
			time.Sleep(time.Second)
			if l, ok := n.log(0); !ok || l != first {
				t.Fatal("it was closed, though somebody asks each second")
			}
		}
		n.wakeAll()
	})
}

// TestDormantTailRolls: a tail is sealed when it is due, also where nobody asks, and soon where that is changed.
func TestDormantTailRolls(t *testing.T) {
	sealed := func(t *testing.T, r *rig, n *node) func() bool {
		return func() bool {
			for p := range int32(partitions) {
				if _, ok, err := n.cat.NewestSegment(t.Context(), kafka.TopicPartition{Topic: r.topic.ID, Partition: p}); !ok || err != nil {
					return false
				}
			}
			return true
		}
	}
	t.Run("due", func(t *testing.T) {
		dormantRig(t, func(t *testing.T, r *rig, n *node) {
			if took := r.until("sealed", 2*time.Minute, sealed(t, r, n)); took < 40*time.Second {
				t.Errorf("sealed after %v", took)
			}
			n.isDormant()
			n.wakeAll()
		}, "log.roll.ms", "60000")
	})
	t.Run("changed", func(t *testing.T) {
		dormantRig(t, func(t *testing.T, r *rig, n *node) {
			time.Sleep(time.Minute)
			if sealed(t, r, n)() {
				t.Error("sealed before it was due")
			}
			if err := r.admin.AlterTopicConfigs(t.Context(), r.topic.Name, func(map[string]string) (map[string]string, error) {
				return map[string]string{"segment.ms": "1000"}, nil
			}); err != nil {
				t.Fatal(err)
			}
			r.until("sealed", 10*time.Second, sealed(t, r, n))
		})
	})
}

// TestDormantStart: a log's start that is raised while nothing is in memory counts when it wakes.
func TestDormantStart(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		s, _ := n.m.Load().Slot(n.slotOf(0))
		if err := n.cat.SetLogStart(t.Context(), s, kafka.TopicPartition{Topic: r.topic.ID}, 2); err != nil {
			t.Fatal(err)
		}
		r.forget(0, 2)
		n.wakeAll()
		if l, _ := n.log(0); l.Offsets().LogStart != 2 {
			t.Errorf("starts at %d", l.Offsets().LogStart)
		}
	})
}

// TestDormantAtWhoHasLostIt: of a partition that another session has made records of, which has taken the slot, nothing
// is known to the one that has lost it and wakes it, before it knows that it has.
func TestDormantAtWhoHasLostIt(t *testing.T) {
	dormantRig(t, func(t *testing.T, r *rig, n *node) {
		ctx := t.Context()
		topic, err := r.admin.CreateTopic(ctx, catalog.Topic{Name: "other", Partitions: 1, ReplicationFactor: 1})
		if err != nil {
			t.Fatal(err)
		}
		s := kafka.PartitionSlot(topic.Name, 0, slots)
		slot, ok := n.m.Load().Slot(s)
		if !ok {
			t.Fatal("the slot is not held")
		}
		tp := kafka.TopicPartition{Topic: topic.ID}
		if err := r.admin.SetLogStart(ctx, slot, tp, 241); err != nil {
			t.Fatal(err)
		}
		n.m.Load().Wake(ctx, slices.Values([]kafka.Slot{s}))
		if _, open := n.opts.Logs.Peek(tp); open || !n.m.Load().Dormant(s) {
			t.Errorf("slot %d is awake, the partition open: %v", s, open)
		}
		for p := range int32(partitions) {
			if n.slotOf(p) != s {
				n.wake(p)
				r.until(fmt.Sprint("partition ", p, " awake"), time.Second, func() bool { _, open := n.log(p); return open })
			}
		}
	})
}
