package retention

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

const (
	slots    = 4
	interval = 5 * time.Minute
	grace    = time.Minute // of the rig's topic
)

// rig is one partition of 10 offsets a segment, and jobs over it.
type rig struct {
	t      *testing.T
	meta   *memmeta.Store
	store  *memstore.Store
	cat    *catalog.Catalog
	slot   catalog.Slot
	topic  catalog.Topic
	tp     kafka.TopicPartition
	sealed kafka.Offset
	gone   []string // objects whose deletion was announced
}

func newRig(t *testing.T, segments int, configs ...string) *rig {
	t.Helper()
	r := &rig{t: t, meta: memmeta.New(), store: memstore.New()}
	r.cat = catalog.New(r.meta)
	ctx := t.Context()
	settings := map[string]string{"retention.ms": fmt.Sprint(time.Hour.Milliseconds()), "file.delete.delay.ms": fmt.Sprint(grace.Milliseconds())}
	for i := 0; i < len(configs); i += 2 {
		settings[configs[i]] = configs[i+1]
	}
	var err error
	r.topic, err = r.cat.CreateTopic(ctx, catalog.Topic{Name: "t", ID: kafka.TopicID{1}, Partitions: 1, Configs: settings})
	r.must(err)
	r.tp = kafka.TopicPartition{Topic: r.topic.ID}
	session, err := r.cat.StartSession(ctx, 1, "here:1", "")
	r.must(err)
	taken, err := r.cat.TakeSlots(ctx, session, nil, []catalog.Slot{{Slot: kafka.PartitionSlot("t", 0, slots), Epoch: -1}}, nil)
	r.must(err)
	r.slot = taken[0]
	for range segments {
		r.seal()
	}
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// seal adds a segment whose newest record is of now.
func (r *rig) seal() {
	r.t.Helper()
	s := catalog.Segment{
		TP: r.tp, Base: r.sealed, End: r.sealed + 10, Key: fmt.Sprintf("seg/%s/%020d", r.tp.Topic.Hex(), r.sealed),
		Size: 5, RawSize: 100, MaxTimestamp: time.Now().UnixMilli(), Epochs: []catalog.EpochStart{{Epoch: 0, Start: 0}},
	}
	r.must(r.store.Put(r.t.Context(), s.Key, objstore.Buffers{[]byte("bytes")}))
	r.must(r.cat.AddSegment(r.t.Context(), r.slot, r.topic, s))
	r.sealed = s.End
}

// job returns a job with a view of the catalogue of its own, as in another process.
func (r *rig) job(holder string) *Job {
	r.t.Helper()
	cfg, err := config.ParseBroker(nil)
	r.must(err)
	j, err := New(Options{
		Catalog: catalog.New(r.meta), Store: r.store, Slots: slots, Holder: holder,
		Config:   func() *config.Broker { return cfg },
		Interval: func() time.Duration { return interval },
		Deleted:  func(key string) { r.gone = append(r.gone, key) },
	})
	r.must(err)
	return j
}

// running runs a job for a while.
func (r *rig) running(d time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	defer cancel()
	r.must(r.job("broker-1").Run(ctx))
}

// turns takes turns one after the other, as a schedule does.
func (r *rig) turns(n int) {
	r.t.Helper()
	for range n {
		_, err := r.job("function").Turn(r.t.Context())
		r.must(err)
		time.Sleep(interval)
	}
}

// entries returns the entries as text, past the faults.
func (r *rig) entries() []string {
	r.t.Helper()
	segs, err := r.cat.Segments(r.t.Context(), r.tp, 0, 0)
	r.must(err)
	var all []string
	for _, s := range segs {
		text := fmt.Sprintf("%d-%d", s.Base, s.End)
		if s.Key == "" {
			text += " empty"
		}
		all = append(all, text)
	}
	return all
}

func (r *rig) start() kafka.Offset {
	r.t.Helper()
	starts, err := r.cat.LogStarts(r.t.Context(), r.slot.Slot)
	r.must(err)
	return starts[r.tp]
}

// check holds at every moment: what is named is there, the log keeps its end,
// nothing is missing above the log start, and what is not named is noted.
func (r *rig) check() {
	r.t.Helper()
	ctx := r.t.Context()
	segs, err := r.cat.Segments(ctx, r.tp, 0, 0)
	r.must(err)
	named := make(map[string]bool)
	for _, s := range segs {
		if _, ok := r.store.Object(s.Key); !ok && s.Key != "" {
			r.t.Fatalf("entry %d-%d names an object that is gone", s.Base, s.End)
		}
		named[s.Key] = true
	}
	dead, err := r.cat.DeadObjects(ctx, time.Now().Add(24*time.Hour), 0)
	r.must(err)
	for _, d := range dead {
		for _, key := range d.Keys {
			named[key] = true
		}
	}
	for _, key := range r.store.Keys() {
		if !named[key] {
			r.t.Fatalf("object %s is forgotten", key)
		}
	}
	if n := len(segs); n == 0 || segs[n-1].End != r.sealed {
		r.t.Fatalf("the log's end is lost: %v", r.entries())
	}
	if segs[0].Base > r.start() {
		r.t.Fatalf("offsets from the log start %d to %d are missing", r.start(), segs[0].Base)
	}
}

func (r *rig) wantEntries(want ...string) {
	r.t.Helper()
	if d := cmp.Diff(want, r.entries()); d != "" {
		r.t.Errorf("entries (-want +got):\n%s", d)
	}
}

func (r *rig) wantObjects(n int) {
	r.t.Helper()
	if keys := r.store.Keys(); len(keys) != n {
		r.t.Errorf("%d objects, want %d: %v", len(keys), n, keys)
	}
}

func (r *rig) wantStart(off kafka.Offset) {
	r.t.Helper()
	if got := r.start(); got != off {
		r.t.Errorf("log start %d, want %d", got, off)
	}
}

// The log start goes up in one pass, the entries go in the next, the objects
// after their delay.
func TestJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		time.Sleep(30 * time.Minute)
		r.seal()
		time.Sleep(31 * time.Minute) // three are older than an hour
		r.running(turnPeriod + time.Second)
		r.wantEntries("0-10", "10-20", "20-30", "30-40")
		r.wantStart(30)
		r.running(interval + turnPeriod)
		r.wantEntries("30-40")
		r.wantObjects(4) // the delay is not over; that job is gone
		r.check()
		r.running(grace + 2*turnPeriod)
		r.wantObjects(1)
		if len(r.gone) != 3 || !strings.HasSuffix(r.gone[2], "20") {
			t.Errorf("deleted: %v", r.gone)
		}
		time.Sleep(time.Hour)
		r.running(2*interval + time.Minute)
		r.wantEntries("30-40 empty")
		r.wantObjects(0)
		r.check()
		r.seal()
		r.running(interval + turnPeriod)
		r.wantEntries("40-50")
		r.check()
	})
}

// The log start that a pass raises is in the change feed of other processes.
func TestOwnersHear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.must(r.cat.Refresh(t.Context()))
		before, slot := r.cat.Applied(), r.slot.Slot
		time.Sleep(2 * time.Hour)
		r.turns(1)
		r.must(r.cat.Refresh(t.Context()))
		for n := range kafka.Slot(slots) {
			if raised := r.cat.Topics().StartsRaised(n) > before; raised != (n == slot) {
				t.Errorf("slot %d: raised %v", n, raised)
			}
		}
		other := catalog.New(r.meta) // has seen no change: whatever it read may be old
		r.must(other.Refresh(t.Context()))
		if other.Topics().StartsRaised(slot) < r.cat.Topics().StartsRaised(slot) {
			t.Error("a new snapshot does not know of the raise")
		}
	})
}

// More segments than one commit takes, and than one read returns; and exactly as many.
func TestManySegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{readEntries, readEntries + 5} {
			r := newRig(t, n)
			time.Sleep(2 * time.Hour)
			r.turns(3)
			r.wantEntries(fmt.Sprintf("%d-%d empty", 10*n-10, 10*n))
			r.wantObjects(0)
			r.check()

			r = newRig(t, n, "retention.ms", "-1", "retention.bytes", "300")
			r.turns(3)
			r.wantStart(kafka.Offset(10*n - 30))
			r.wantObjects(3)
			r.check()
		}
	})
}

// retention.ms=-1 keeps for ever, whatever the brokers' default.
func TestForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, "retention.ms", "-1")
		time.Sleep(365 * 24 * time.Hour)
		r.turns(3)
		r.wantEntries("0-10", "10-20")
	})
}

// One at a time; the work stays with a schedule as long as it takes its turns.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		broker, function := r.job("broker-1"), r.job("function")
		ctx := t.Context()
		_, err := function.Turn(ctx)
		r.must(err)
		if stats, err := broker.Turn(ctx); err != nil || stats.Partitions > 0 {
			t.Errorf("a second schedule worked too: %+v, %v", stats, err)
		}
		time.Sleep(interval)
		if stats, err := function.Turn(ctx); err != nil || stats.Partitions != 1 {
			t.Errorf("the schedule was kept out: %+v, %v", stats, err)
		}
		if due, err := broker.due(ctx); err != nil || due {
			t.Errorf("due for the second schedule: %v, %v", due, err)
		}
		time.Sleep(reserveTurns * interval)
		if stats, err := broker.Turn(ctx); err != nil || stats.Partitions != 1 {
			t.Errorf("nobody took over: %+v, %v", stats, err)
		}
	})
}

// What was done last in a time that has not come yet, by a clock that was ahead, is done again.
func TestClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		lease, err := r.cat.AcquireLease(t.Context(), JobName, "broker-1", time.Minute)
		r.must(err)
		ahead := time.Now().Add(365 * 24 * time.Hour).UnixMilli()
		lease.WriteState(position{Passed: ahead, Groups: ahead})
		r.must(r.cat.ReleaseLease(t.Context(), lease, 0))
		j := r.job("broker-1")
		if due, err := j.due(t.Context()); err != nil || !due {
			t.Errorf("due: %v, %v", due, err)
		}
		stats, err := j.Turn(t.Context())
		r.must(err)
		lease, err = r.cat.Lease(t.Context(), JobName)
		r.must(err)
		at, err := positionOf(lease)
		r.must(err)
		now := time.Now().UnixMilli()
		if want := (position{Passed: now, Groups: now}); stats.Partitions != 1 || at != want {
			t.Errorf("%+v, at %+v, want %+v", stats, at, want)
		}
		if due, err := j.due(t.Context()); err != nil || due {
			t.Errorf("due again: %v, %v", due, err)
		}
	})
}

// What a holder that was overtaken has on its way is not applied any more.
func TestOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		time.Sleep(2 * time.Hour)
		r.turns(1)
		late := 0
		r.meta.Hook = func(op string, ops []meta.Op) memmeta.Fault {
			if op != "commit" || len(ops) < 3 { // not the removal
				return memmeta.Fault{}
			}
			late++
			return memmeta.Fault{Fail: true, Later: time.Hour}
		}
		if _, err := r.job("function").Turn(t.Context()); err == nil || late == 0 {
			t.Errorf("%d attempts, %v", late, err)
		}
		disarm(r)
		_, err := r.cat.AcquireLease(t.Context(), JobName, "function", time.Minute) // and does nothing yet
		r.must(err)
		time.Sleep(2 * time.Hour)
		r.wantEntries("0-10", "10-20")
		r.turns(2)
		r.wantEntries("10-20 empty")
		r.check()
	})
}

// A turn whose time is over goes on where it was.
func TestContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		for _, name := range []string{"a", "b", "u", "v"} {
			_, err := r.cat.CreateTopic(t.Context(), catalog.Topic{Name: name, Partitions: 3})
			r.must(err)
		}
		r.meta.Hook = func(string, []meta.Op) memmeta.Fault { return memmeta.Fault{Before: 2 * time.Second} }
		seen, turns, began := 0, 0, time.Now()
		for more := true; more; turns++ {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			stats, err := r.job("function").Turn(ctx)
			cancel()
			if err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			seen, more = seen+stats.Partitions, stats.Unfinished
		}
		passes := 1 + int(time.Since(began)/interval) // the next is due while groups are looked at
		if turns < 2 || seen < 13 || seen > 13*passes+turns {
			t.Errorf("%d turns in %d passes looked at %d partitions, of 13", turns, passes, seen)
		}
	})
}

// A job that lost a race leaves the rest to the next pass, without an error.
func TestEntriesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, "retention.ms", "-1", "retention.bytes", "0")
		ctx := t.Context()
		r.turns(1)
		segs, err := r.cat.Segments(ctx, r.tp, 0, 0)
		r.must(err)
		armed := true
		r.meta.Hook = func(op string, ops []meta.Op) memmeta.Fault {
			if armed && op == "commit" && len(ops) > 2 {
				armed = false
				next := segs[0]
				next.Key = "seg/compacted"
				r.must(r.store.Put(ctx, next.Key, objstore.Buffers{[]byte("b")}))
				r.must(r.cat.SwapSegments(ctx, catalog.Swap{Topic: &r.topic, Old: segs[:1], New: []catalog.Segment{next}, Due: time.Now()})) // compaction was quicker
			}
			return memmeta.Fault{}
		}
		r.turns(1)
		r.wantEntries("0-10", "10-20")
		r.turns(1)
		r.wantEntries("10-20 empty")
		r.check()
		r.seal()
		r.must(r.cat.DeleteTopic(ctx, "t", kafka.TopicID{}))
		r.turns(1)
		r.wantEntries()
	})
}

// kill makes the n-th call end the process: before its effect, or after.
type kill struct {
	at     int
	after  bool
	cancel context.CancelFunc
	calls  int
}

func (k *kill) now() bool { k.calls++; return k.calls >= k.at }

func (k *kill) arm(r *rig) {
	r.meta.Hook = func(string, []meta.Op) memmeta.Fault {
		if !k.now() {
			return memmeta.Fault{}
		}
		k.cancel()
		return memmeta.Fault{Fail: true, Apply: k.after && k.calls == k.at}
	}
	r.store.SetFault(func(memstore.Op, string) memstore.Fault {
		if !k.now() {
			return memstore.Fault{}
		}
		k.cancel()
		if k.after && k.calls == k.at {
			return memstore.Fault{Kind: memstore.FailApplied}
		}
		return memstore.Fault{Kind: memstore.Fail}
	})
}

func disarm(r *rig) {
	r.meta.Hook = nil
	r.store.SetFault(nil)
}

// Killed at any call, before or after its effect: what is named is there, what is not is noted,
// and the next job finishes.
func TestKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			t.Run(fmt.Sprintf("%d/%v", at, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, removeBatch+3)
					time.Sleep(2 * time.Hour)
					ctx, cancel := context.WithTimeout(t.Context(), 2*interval)
					k := &kill{at: at, after: after, cancel: cancel}
					k.arm(r)
					r.must(r.job("broker-1").Run(ctx))
					disarm(r)
					more = k.calls >= at
					r.check()
					time.Sleep(reserveTurns * interval)
					r.turns(3)
					r.wantEntries(fmt.Sprintf("%d-%d empty", 10*removeBatch+20, 10*removeBatch+30))
					r.wantObjects(0)
					r.check()
				})
			})
		}
	}
}

// Calls that fail, apply unseen or land late, at random places.
func TestFaults(t *testing.T) {
	for seed := range int64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, removeBatch+3)
				time.Sleep(2 * time.Hour)
				n := seed
				r.meta.Hook = func(op string, _ []meta.Op) memmeta.Fault {
					n = (n*6364136223846793005 + 1442695040888963407) & (1<<62 - 1)
					switch n >> 40 % 12 {
					case 0:
						return memmeta.Fault{Fail: true}
					case 1:
						return memmeta.Fault{Fail: true, Apply: true}
					case 2:
						return memmeta.Fault{Fail: true, Later: time.Duration(n>>20%200) * time.Second}
					case 3:
						return memmeta.Fault{Busy: op == "commit", After: time.Second}
					}
					return memmeta.Fault{}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 6*interval)
				defer cancel()
				r.must(r.job("broker-1").Run(ctx))
				disarm(r)
				r.check()
				time.Sleep(reserveTurns * interval)
				r.check()
				r.turns(3)
				r.wantEntries(fmt.Sprintf("%d-%d empty", 10*removeBatch+20, 10*removeBatch+30))
				r.wantObjects(0)
			})
		})
	}
}
