package rebuild_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/rebuild"
	"github.com/varvelog/varve/tiering/tiertest"
	"github.com/varvelog/varve/tiering/wal"
)

// flushed is an owner that has put n WAL objects, of one record each.
func flushed(t *testing.T, n int) *tiertest.Owner {
	t.Helper()
	o := tiertest.New(t.Context(), t, map[string]int32{"a": 1})
	for i := range n {
		o.Append(o.Logs[0], tiertest.Batch(record.None, i, 1, 10))
		o.Flush()
	}
	return o
}

var first = bundle.Origin{Broker: 1}

// put puts a seal, or a copy of another WAL object's batches at new offsets, as
// a process does that does not know that its session has ended.
func put(t *testing.T, o *tiertest.Owner, seq int64, seal bool) {
	t.Helper()
	at := first
	at.Seq, at.Nonce = seq, nonce(t, o)
	body, _ := bundle.SealBuffers(at, at)
	if !seal {
		b := tiertest.Batch(record.None, 1000+int(seq), 1, 10)
		record.Stamp(b, o.Logs[0].End(), 0)
		m, err := bundle.Describe(b)
		ok(t, err)
		l := o.Logs[0]
		slot := kafka.PartitionSlot(l.Topic.Name, l.TP.Partition, tiertest.Slots)
		body, _, _ = bundle.WALBuffers(at, []bundle.SliceData{{Slot: slot, TP: l.TP, Batches: []bundle.Batch{m}, Data: [][]byte{b}}})
	}
	ok(t, o.Store.Put(t.Context(), wal.Key(at), objstore.Buffers(body)))
}

func nonce(t *testing.T, o *tiertest.Owner) [16]byte {
	t.Helper()
	for _, key := range o.Store.Keys() {
		if origin, is := wal.ParseKey(key); is && origin.Epoch == 0 {
			obj, err := bundle.Read(t.Context(), bundle.At(o.Store, key), nil)
			ok(t, err)
			return obj.Origin.Nonce
		}
	}
	t.Fatal("no object of the first session")
	return [16]byte{}
}

// TestBehindTheSeal: what a process puts behind its seal is no part of the log,
// whether the next owner has written there or not.
func TestBehindTheSeal(t *testing.T) {
	for _, written := range []bool{false, true} {
		o := flushed(t, 3)
		o.Restart() // sealed at 3
		put(t, o, 4, false)
		put(t, o, 5, false)
		put(t, o, 19, true) // a stop further on
		if written {
			o.Append(o.Logs[0], tiertest.Batch(record.None, 77, 1, 10))
			o.Flush()
		}
		note(t.Context(), t, o, o.Store)
		report, table := rebuilt(t.Context(), t, rebuild.Options{Store: o.Store})
		if report.Damaged() {
			t.Errorf("%v", report.Findings)
		}
		same(t.Context(), t, o, table, o.Store, true)
	}
}

// TestStraySeal: somebody late has put a seal where objects had been trimmed. The
// mark says which one counts; without it nobody knows, and it is said.
func TestStraySeal(t *testing.T) {
	for _, marked := range []bool{true, false} {
		o := flushed(t, 3)
		o.Checkpoint(false) // trimmed up to 2
		for i := range 3 {
			o.Append(o.Logs[0], tiertest.Batch(record.None, 10+i, 1, 10))
			o.Flush()
		}
		dead := first
		dead.Nonce = nonce(t, o)
		o.Restart() // sealed at 6
		put(t, o, 2, true)
		if marked {
			ok(t, wal.MarkEnd(t.Context(), o.Store, dead, 6))
			ok(t, wal.MarkEnd(t.Context(), o.Store, dead, 6))
		}
		names := map[kafka.TopicID]string{o.Logs[0].TP.Topic: "a"}
		r, err := rebuild.Build(t.Context(), rebuild.Options{Store: o.Store, Slots: tiertest.Slots, Names: names}, memmeta.New())
		ok(t, err)
		if marked == r.Report.Damaged() || marked != (r.Report.Kinds[rebuild.Undecided] == 0) {
			t.Errorf("marked %v: %v", marked, r.Report.Findings)
		}
		if marked {
			table := memmeta.New()
			ok(t, r.WriteTo(t.Context(), catalog.New(table), false))
			same(t.Context(), t, o, table, o.Store, true)
		}
	}
}

// TestGapWithoutASeal: the whole cluster ended while objects were on their way.
// What lies behind the gap was acknowledged to nobody.
func TestGapWithoutASeal(t *testing.T) {
	o := flushed(t, 3)
	put(t, o, 4, false)
	note(t.Context(), t, o, o.Store)
	report, table := rebuilt(t.Context(), t, rebuild.Options{Store: o.Store})
	if report.Damaged() || report.Sessions != 1 || report.Kinds[rebuild.Note] != 1 {
		t.Errorf("%+v", report)
	}
	same(t.Context(), t, o, table, o.Store, true)
}

// TestMissing: what is lost is said, and nothing is made of it.
func TestMissing(t *testing.T) {
	o := flushed(t, 3)
	l := o.Logs[0]
	o.Seal(l)
	o.Append(l, tiertest.Batch(record.None, 9, 1, 10))
	o.Seal(l)
	o.Append(l, tiertest.Batch(record.None, 10, 1, 10))
	o.Seal(l)
	o.Checkpoint(false)
	note(t.Context(), t, o, o.Store)
	for _, key := range o.Store.Keys() {
		if strings.HasPrefix(key, "seg/") && strings.Contains(key, "/00000000000000000003-") {
			ok(t, o.Store.Delete(t.Context(), key))
		}
	}
	r, err := rebuild.Build(t.Context(), rebuild.Options{Store: o.Store}, memmeta.New())
	ok(t, err)
	if r.Report.Kinds[rebuild.Lost] != 1 || !strings.Contains(fmt.Sprint(r.Report.Findings), "a-0: offsets 3 to 3") {
		t.Errorf("%v", r.Report.Findings)
	}
}

// TestKilledRebuild: the writing ends at each commit, with all outcomes; until it
// is run again to its end nobody takes the half for a catalogue.
func TestKilledRebuild(t *testing.T) {
	o := flushed(t, 3)
	o.Seal(o.Logs[0])
	o.Append(o.Logs[0], tiertest.Batch(record.None, 9, 1, 10))
	o.Restart()
	o.SetStart(o.Logs[0], 1)
	note(t.Context(), t, o, o.Store)
	r, err := rebuild.Build(t.Context(), rebuild.Options{Store: o.Store}, memmeta.New())
	ok(t, err)
	for _, applied := range []bool{false, true} {
		for kill := 1; ; kill++ {
			store := memmeta.New()
			commits := 0
			ctx, cancel := context.WithCancel(t.Context())
			store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
				if op != "commit" {
					return memmeta.Fault{}
				}
				if commits++; commits == kill {
					cancel()
					return memmeta.Fault{Fail: true, Apply: applied}
				}
				return memmeta.Fault{}
			}
			failed := r.WriteTo(ctx, catalog.New(store), false)
			cancel()
			store.Hook = nil
			_, state := catalog.New(store).ReadCluster(t.Context())
			switch again := r.WriteTo(t.Context(), catalog.New(store), false); {
			case state == nil && errors.Is(again, catalog.ErrExists): // the last commit was applied
			case again != nil, state == nil, kill > 1 && !errors.Is(state, catalog.ErrRestoring):
				t.Fatalf("killed at commit %d, applied %v: %v, then %v", kill, applied, state, again)
			}
			same(t.Context(), t, o, store, o.Store, true)
			if failed == nil {
				break
			}
		}
	}
}

// TestStoreFails: a call that fails for good ends the rebuild, at whichever call; it
// is never taken for an object that is lost. One that fails once does not show.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := flushed(t, 3)
		o.Seal(o.Logs[0])
		o.Append(o.Logs[0], tiertest.Batch(record.None, 9, 1, 10))
		o.Checkpoint(false)
		o.Append(o.Logs[0], tiertest.Batch(record.None, 10, 1, 10))
		o.Flush()
		note(t.Context(), t, o, o.Store)
		for at := 1; ; at++ {
			for _, once := range []bool{true, false} {
				calls, failing := 0, ""
				o.Store.SetFault(func(op memstore.Op, key string) memstore.Fault {
					calls++
					if calls == at {
						failing = key
					}
					if calls == at || calls > at && !once && key == failing {
						return memstore.Fault{Kind: memstore.Fail}
					}
					return memstore.Fault{}
				})
				r, err := rebuild.Build(t.Context(), rebuild.Options{Store: o.Store, Parallel: 1}, memmeta.New())
				o.Store.SetFault(nil)
				if calls < at {
					return
				}
				if err == nil && (r.Report.Damaged() || !once) || err != nil && !errors.Is(err, memstore.ErrInjected) {
					t.Fatalf("call %d (%s), once %v: %v, %+v", at, failing, once, err, r)
				}
			}
		}
	})
}

// TestDeletedFromTheTail: DeleteRecords has removed the beginning of the tail, and
// no manifest says so. Nothing is broken: the tail begins where checkpoints have it.
func TestDeletedFromTheTail(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		o := flushed(t, 3)
		l := o.Logs[0]
		if sealed {
			o.Seal(l)
		}
		for i := range 3 {
			o.Append(l, tiertest.Batch(record.None, 20+i, 1, 10))
			o.Flush()
		}
		o.SetStart(l, l.End()-1)
		o.Checkpoint(true)
		names := map[kafka.TopicID]string{l.TP.Topic: "a"}
		r, err := rebuild.Build(t.Context(), rebuild.Options{Store: o.Store, Slots: tiertest.Slots, Names: names}, memmeta.New())
		ok(t, err)
		if k := r.Report.Kinds; k[rebuild.Broken]+k[rebuild.Lost] > 0 || sealed != r.Report.Damaged() {
			t.Errorf("sealed %v: %v", sealed, r.Report.Findings)
		}
		table := memmeta.New()
		ok(t, r.WriteTo(t.Context(), catalog.New(table), false))
		same(t.Context(), t, o, table, o.Store, false)
	}
}
