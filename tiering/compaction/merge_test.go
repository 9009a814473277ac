package compaction

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/tiertest"
)

// Small segments become few; what they were goes.
func TestMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSmall(t)
		before := r.entries()
		stats, err := r.newJob("function").Turn(t.Context())
		r.must(err)
		if n := len(before) - 1; stats.Merged != n || stats.Replaced != n || stats.Cleaned != 0 || stats.Unfinished || stats.Written == 0 {
			t.Errorf("%+v", stats)
		}
		r.cleaned()
		if now := r.entries(); len(now) != 2 || now[1].Key != before[len(before)-1].Key {
			t.Errorf("entries %v", summary(now))
		}
		dead, err := r.owner.Cat.AllDeadObjects(t.Context())
		r.must(err)
		noted := 0
		for _, d := range dead {
			noted += len(d.Keys)
		}
		if noted != len(before)-1 {
			t.Errorf("%d objects are noted", noted)
		}
		if stats, err := r.newJob("function").Turn(t.Context()); err != nil || stats.Read > 0 {
			t.Errorf("before it is due again: %+v, %v", stats, err)
		}
	})
}

// Logs that were looked at last in a time that has not come yet, by a clock that
// was ahead, are looked at again.
func TestMergeClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSmall(t)
		lease, err := r.owner.Cat.AcquireLease(t.Context(), JobName, "function", time.Minute)
		r.must(err)
		lease.WriteState(position{Merged: time.Now().Add(365 * 24 * time.Hour).UnixMilli()})
		r.must(r.owner.Cat.ReleaseLease(t.Context(), lease, 0))
		if stats, err := r.newJob("function").Turn(t.Context()); err != nil || stats.Merged == 0 {
			t.Errorf("%+v, %v", stats, err)
		}
	})
}

// Whatever small segments a log has: merging leaves what can be read, from each
// offset, as it is, and comes to an end.
func TestMergeChangesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t.Context(), rt, map[string]string{"log.cleanup.policy": "delete", "segment.merge.interval.ms": "1"})
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			mergeStep(rt, r, i)
		}
		r.check()
		for turns := 0; ; turns++ {
			time.Sleep(2 * time.Millisecond) // until it is due
			stats, err := r.job.Turn(r.ctx)
			r.must(err)
			r.check()
			if stats.Merged == 0 {
				break
			}
			if turns > 5 {
				rt.Fatalf("entries %v", summary(r.entries()))
			}
		}
	})
}

func mergeStep(rt *rapid.T, r *rig, i int) {
	pid := rapid.SampledFrom([]int64{-1, 1, 2, 100, 101}).Draw(rt, "pid")
	switch rapid.SampledFrom([]string{"batch", "batch", "batch", "segment", "segment", "segment", "marker", "restart", "turn"}).Draw(rt, "step") {
	case "batch":
		codec := rapid.SampledFrom([]record.Codec{record.None, record.LZ4, record.Zstd}).Draw(rt, "codec")
		r.produce(codec, pid, r.now.UnixMilli()-int64(rapid.IntRange(0, 100).Draw(rt, "age")), kv{text("a"), fmt.Append(nil, i)}, kv{nil, nil})
	case "segment":
		r.produce(record.None, pid, r.now.UnixMilli(), kv{text("b"), make([]byte, rapid.IntRange(0, 300).Draw(rt, "bytes"))})
		r.seal()
	case "marker":
		r.marker(pid, rapid.Bool().Draw(rt, "commit"))
	case "restart":
		r.owner.Flush()
		r.owner.Restart()
	case "turn":
		_, err := r.job.Turn(r.ctx)
		r.must(err)
		r.check()
	}
}

// The time of a function is over: the next turn goes on with the log that comes next.
func TestMergeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := tiertest.New(t.Context(), t, map[string]int32{"a": 2, "b": 2})
		for i := range 10 {
			for _, l := range o.Logs {
				o.Append(l, tiertest.Batch(record.None, 10*i, 3, 100))
				o.Seal(l)
			}
		}
		o.Store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		cfg, err := config.ParseBroker(nil)
		if err != nil {
			t.Fatal(err)
		}
		turns, merged := 0, 0
		for unfinished := true; unfinished && turns < 10; turns++ {
			j, err := New(Options{Catalog: catalog.New(o.Meta), Store: o.Store, Slots: tiertest.Slots, Holder: "function", Config: func() *config.Broker { return cfg }})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
			stats, err := j.Turn(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			unfinished, merged = stats.Unfinished, merged+stats.Merged
		}
		if merged != 4*9 || turns < 2 || turns == 10 {
			t.Errorf("%d merged in %d turns", merged, turns)
		}
	})
}
