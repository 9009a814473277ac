package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

const slots = 4

// rig is one partition of 10 offsets a segment, and a job over it.
type rig struct {
	t     *testing.T
	meta  *memmeta.Store
	store *memstore.Store
	cat   *catalog.Catalog
	slot  catalog.Slot
	part  Partition
	start kafka.Offset // as the owner's readers see it
	gone  []string     // objects whose deletion was announced
}

func newRig(t *testing.T, segments int) *rig {
	t.Helper()
	r := &rig{t: t, meta: memmeta.New(), store: memstore.New()}
	r.cat = catalog.New(r.meta)
	ctx := t.Context()
	topic, err := r.cat.CreateTopic(ctx, catalog.Topic{Name: "t", ID: kafka.TopicID{1}, Partitions: 1})
	r.must(err)
	session, err := r.cat.StartSession(ctx, 1, "here:1", "")
	r.must(err)
	taken, err := r.cat.TakeSlots(ctx, session, nil, []catalog.Slot{{Slot: kafka.PartitionSlot("t", 0, slots), Epoch: -1}})
	r.must(err)
	r.slot = taken[0]
	r.part = Partition{
		Topic: topic, TP: kafka.TopicPartition{Topic: topic.ID},
		Config:      config.Topic{Delete: true, RetentionMs: time.Hour.Milliseconds(), RetentionBytes: -1, FileDeleteDelay: time.Minute},
		SetLogStart: r.setLogStart,
	}
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
	base := r.part.Sealed
	s := catalog.Segment{
		TP: r.part.TP, Base: base, End: base + 10, Key: fmt.Sprintf("seg/%s/%020d", r.part.TP.Topic.Hex(), base),
		Size: 5, RawSize: 100, MaxTimestamp: time.Now().UnixMilli(), Epochs: []catalog.EpochStart{{Epoch: 0, Start: 0}},
	}
	r.must(r.store.Put(r.t.Context(), s.Key, objstore.Buffers{[]byte("bytes")}))
	r.must(r.cat.AddSegment(r.t.Context(), r.slot, r.part.Topic, s))
	r.part.Sealed = s.End
}

// setLogStart is what an owner does: catalogue first, then readers.
func (r *rig) setLogStart(ctx context.Context, off kafka.Offset) error {
	if err := r.cat.SetLogStart(ctx, r.slot.Slot, r.part.TP, off); err != nil {
		return err
	}
	r.start = max(r.start, off)
	return nil
}

func (r *rig) job() *Job {
	r.t.Helper()
	j, err := New(Options{
		Catalog: r.cat, Store: r.store, Slots: slots,
		Partitions: func() []Partition {
			p := r.part
			p.LogStart = r.start
			return []Partition{p}
		},
		Interval: func() time.Duration { return 5 * time.Minute },
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
	r.must(r.job().Run(ctx))
}

// entries returns the entries as text, past the faults.
func (r *rig) entries() []string {
	r.t.Helper()
	segs, err := r.cat.Segments(r.t.Context(), r.part.TP, 0, 0)
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

// check holds at every moment: what is named is there, the log keeps its end,
// and nothing is missing above the log start.
func (r *rig) check() {
	r.t.Helper()
	ctx := r.t.Context()
	segs, err := r.cat.Segments(ctx, r.part.TP, 0, 0)
	r.must(err)
	starts, err := r.cat.LogStarts(ctx, r.slot.Slot)
	r.must(err)
	start := starts[r.part.TP]
	if r.start > start {
		r.t.Fatalf("readers' log start %d is above the catalogue's %d", r.start, start)
	}
	for _, s := range segs {
		if _, ok := r.store.Object(s.Key); !ok && s.Key != "" {
			r.t.Fatalf("entry %d-%d names an object that is gone", s.Base, s.End)
		}
	}
	if n := len(segs); n == 0 || segs[n-1].End != r.part.Sealed {
		r.t.Fatalf("the log's end is lost: %v", r.entries())
	}
	if segs[0].Base > start {
		r.t.Fatalf("offsets from the log start %d to %d are missing", start, segs[0].Base)
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

func TestJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		time.Sleep(30 * time.Minute)
		r.seal()
		time.Sleep(31 * time.Minute) // three are older than an hour
		r.running(45 * time.Second)  // the first pass comes after 30 s
		r.wantEntries("30-40")
		r.wantObjects(4) // the grace is not over; that job is gone
		if r.start != 30 {
			t.Errorf("log start %d", r.start)
		}
		time.Sleep(time.Hour)
		r.running(45 * time.Second)
		r.wantEntries("30-40 empty")
		r.wantObjects(4)
		r.check()
		r.seal()
		r.wantEntries("30-40 empty", "40-50")
		time.Sleep(time.Hour + time.Second)
		r.running(2 * time.Minute)
		r.wantEntries("40-50 empty")
		r.wantObjects(4) // 0 to 40 were left to the sweep, 40 to 50 is deleted
		if len(r.gone) != 1 || !strings.HasSuffix(r.gone[0], "40") {
			t.Errorf("deleted: %v", r.gone)
		}
		r.check()
	})
}

// The objects go when the grace is over, not before.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		time.Sleep(2 * time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.job().Run(ctx) }()
		time.Sleep(firstPass + 59*time.Second)
		synctest.Wait()
		r.wantEntries("10-20 empty")
		r.wantObjects(2)
		time.Sleep(time.Second)
		synctest.Wait()
		r.wantObjects(0)
		cancel()
		r.must(<-done)
	})
}

// More segments than one commit takes, and than one read returns.
func TestManySegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, readEntries+5)
		time.Sleep(2 * time.Hour)
		r.seal()
		r.running(3 * time.Minute)
		r.wantEntries("10050-10060")
		r.wantObjects(1)
		r.check()

		r = newRig(t, readEntries+5)
		r.part.Config = config.Topic{Delete: true, RetentionMs: -1, RetentionBytes: 300}
		r.running(3 * time.Minute)
		r.wantEntries("10020-10030", "10030-10040", "10040-10050")
		r.check()
	})
}

// A job that lost a race leaves the rest to the next pass, without an error.
func TestEntriesChange(t *testing.T) {
	r := newRig(t, 2)
	ctx := t.Context()
	r.part.Config.RetentionMs = -1
	r.part.Config.RetentionBytes = 0
	segs, err := r.cat.Segments(ctx, r.part.TP, 0, 0)
	r.must(err)
	j := r.job()
	r.part.SetLogStart = func(ctx context.Context, off kafka.Offset) error {
		next := segs[0]
		next.Key = "seg/compacted"
		r.must(r.store.Put(ctx, next.Key, objstore.Buffers{[]byte("b")}))
		r.must(r.cat.RemoveSegments(ctx, &r.part.Topic, segs[:1], &next)) // compaction was quicker
		return r.setLogStart(ctx, off)
	}
	r.must(j.Pass(ctx))
	r.wantEntries("0-10", "10-20")
	r.part.SetLogStart = r.setLogStart
	r.must(j.Pass(ctx))
	r.wantEntries("10-20 empty")
	r.check()

	r.seal()
	r.must(r.cat.DeleteTopic(ctx, "t"))
	r.must(j.Pass(ctx))
	r.wantEntries("10-20 empty", "20-30")
}

// kill makes the n-th call end the process: before its effect, or after.
type kill struct {
	at     int
	after  bool
	cancel context.CancelFunc
	calls  int
}

func (k *kill) now() bool { k.calls++; return k.calls == k.at }

func (k *kill) arm(r *rig) {
	r.meta.Hook = func(string, []meta.Op) memmeta.Fault {
		if !k.now() {
			return memmeta.Fault{}
		}
		k.cancel()
		return memmeta.Fault{Fail: true, Apply: k.after}
	}
	r.store.SetFault(func(memstore.Op, string) memstore.Fault {
		if !k.now() {
			return memstore.Fault{}
		}
		k.cancel()
		if k.after {
			return memstore.Fault{Kind: memstore.FailApplied}
		}
		return memstore.Fault{Kind: memstore.Fail}
	})
}

func disarm(r *rig) {
	r.meta.Hook = nil
	r.store.SetFault(nil)
}

// Killed at any call, before or after its effect: what is named is there, and
// the next job finishes. All that may be left is objects that nothing names.
func TestKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			t.Run(fmt.Sprintf("%d/%v", at, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, removeBatch+3)
					time.Sleep(2 * time.Hour)
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
					k := &kill{at: at, after: after, cancel: cancel}
					k.arm(r)
					r.must(r.job().Run(ctx))
					disarm(r)
					more = k.calls >= at
					r.check()
					r.start = r.restart()
					r.running(10 * time.Minute)
					r.wantEntries(fmt.Sprintf("%d-%d empty", 10*removeBatch+20, 10*removeBatch+30))
					r.check()
					if keys := r.store.Keys(); !more && len(keys) > 0 {
						t.Errorf("%d objects are left without a kill", len(keys))
					}
				})
			})
		}
	}
}

// restart returns the log start that a new owner reads.
func (r *rig) restart() kafka.Offset {
	starts, err := r.cat.LogStarts(r.t.Context(), r.slot.Slot)
	r.must(err)
	return starts[r.part.TP]
}

// Each kind of fault at each call: the job goes on by itself, and nothing is left.
func TestFaults(t *testing.T) {
	metaFaults := []memmeta.Fault{{Fail: true}, {Fail: true, Apply: true}, {Fail: true, Later: time.Second}, {Busy: true}}
	storeFaults := []memstore.Fault{{Kind: memstore.Fail}, {Kind: memstore.FailApplied}, {Kind: memstore.LandLater, After: time.Second}, {Kind: memstore.Fail}}
	for kind := range metaFaults {
		for at, more := 1, true; more; at++ {
			t.Run(fmt.Sprintf("%d/%d", kind, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, removeBatch+3)
					time.Sleep(2 * time.Hour)
					calls := 0
					hit := func() bool { calls++; return calls == at }
					r.meta.Hook = func(string, []meta.Op) (f memmeta.Fault) {
						if hit() {
							f = metaFaults[kind]
						}
						return f
					}
					r.store.SetFault(func(memstore.Op, string) (f memstore.Fault) {
						if hit() {
							f = storeFaults[kind]
						}
						return f
					})
					r.running(20 * time.Minute)
					disarm(r)
					more = calls >= at
					r.wantEntries(fmt.Sprintf("%d-%d empty", 10*removeBatch+20, 10*removeBatch+30))
					r.wantObjects(0)
					r.check()
				})
			})
		}
	}
}

// An outcome that stays unknown past the call's deadline: the next pass finds
// out what became of it, and the objects go all the same.
func TestUnknownIsSettledLater(t *testing.T) {
	for _, applied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 3)
			time.Sleep(2 * time.Hour)
			begun := time.Time{}
			r.meta.Hook = func(op string, ops []meta.Op) memmeta.Fault {
				if op != "commit" || !slices.ContainsFunc(ops, func(o meta.Op) bool { return strings.HasPrefix(o.Key.PK, "log/") }) {
					return memmeta.Fault{}
				}
				if begun.IsZero() {
					begun = time.Now()
				}
				if time.Since(begun) > 2*time.Minute {
					return memmeta.Fault{}
				}
				return memmeta.Fault{Fail: true, Apply: applied, Before: time.Minute} // no answer in time
			}
			if applied {
				first := true
				inner := r.meta.Hook
				r.meta.Hook = func(op string, ops []meta.Op) memmeta.Fault {
					f := inner(op, ops)
					if f.Fail {
						f.Before, f.After = 0, time.Minute // it is applied, the answer does not come
						if !first {
							f = memmeta.Fault{Before: time.Minute}
						}
						first = false
					}
					return f
				}
			}
			r.running(20 * time.Minute)
			disarm(r)
			r.wantEntries("20-30 empty")
			r.wantObjects(0)
			r.check()
		})
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a job without ports")
	}
}

var errStop = errors.New("stop")

// A partition that fails doesn't hold up the others.
func TestPassGoesOn(t *testing.T) {
	r := newRig(t, 2)
	r.part.Config.RetentionBytes = 0
	j := r.job()
	bad := r.part
	bad.SetLogStart = func(context.Context, kafka.Offset) error { return errStop }
	j.o.Partitions = func() []Partition { return []Partition{bad, r.part} }
	if err := j.Pass(t.Context()); !errors.Is(err, errStop) {
		t.Errorf("pass: %v", err)
	}
	r.wantEntries("10-20 empty")
}
