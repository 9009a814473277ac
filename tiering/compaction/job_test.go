package compaction

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// newHistory is a log of several segments with what compaction has to know:
// tombstones, an aborted transaction over a seam, producers that fell silent.
func newHistory(t *testing.T) *rig {
	t.Helper()
	r := newRig(t.Context(), t, map[string]string{"log.cleaner.delete.retention.ms": "3600000000"})
	r.model.anyTime = true
	r.must(r.owner.Cat.AlterTopicConfigs(r.ctx, "c", func(m map[string]string) (map[string]string, error) {
		m["segment.bytes"] = "400"
		return m, nil
	}))
	at := time.Now().UnixMilli()
	put := func(pid int64, keys ...string) {
		var recs []kv
		for i, k := range keys {
			v := fmt.Appendf(nil, "%s-%d-%d", k, r.end(), i)
			if strings.HasSuffix(k, "!") {
				k, v = k[:len(k)-1], nil
			}
			recs = append(recs, kv{text(k), v})
		}
		r.produce(record.LZ4, pid, at, recs...)
	}
	put(-1, "a", "b", "c")
	put(1, "a", "d")
	put(100, "b", "x")
	r.seal()
	put(100, "c")
	put(2, "e", "null")
	r.marker(100, false)
	r.seal()
	put(-1, "a!", "f")
	put(101, "d")
	r.marker(101, true)
	r.seal()
	put(2, "e", "f")
	r.seal()
	put(-1, "hot")
	r.owner.Flush()
	return r
}

// newSmall is a log that keeps all its records, of many small segments: some
// batches of theirs were compressed, a transaction and an aborted one reach over seams.
func newSmall(t *testing.T) *rig {
	t.Helper()
	r := newRig(t.Context(), t, map[string]string{"log.cleanup.policy": "delete", "segment.merge.interval.ms": "60000"})
	r.atMost = 3
	at := time.Now().UnixMilli()
	for i := range 12 {
		r.produce(record.Codec(i%4), []int64{-1, 1, 100, 101}[i%4], at, kv{text("a"), fmt.Append(nil, i)}, kv{text("null"), nil})
		if i%5 == 4 {
			r.marker(100, false)
			r.marker(101, true)
		}
		r.seal()
	}
	r.produce(record.None, 1, at, kv{text("hot"), nil})
	r.owner.Flush()
	return r
}

// histories are those that jobs are tried on.
var histories = map[string]func(*testing.T) *rig{"compact": newHistory, "merge": newSmall}

// cleaned checks that the log is as one pass over all of it leaves it.
func (r *rig) cleaned() {
	r.t.Helper()
	if r.atMost > 0 {
		if n := len(r.entries()); n > r.atMost {
			r.t.Fatalf("%d entries are left", n)
		}
		r.check()
		return
	}
	r.model.clean(r.sealed.LastStable, r.sealed.NextOffset-1, &r.sealed, time.Now().UnixMilli(), 3_600_000_000)
	r.check()
}

func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHistory(t)
		before := r.entries()
		stats, err := r.newJob("broker-1").Turn(t.Context())
		r.must(err)
		if stats.Cleaned != 1 || stats.Replaced != len(before) || stats.Records != 17 || stats.Left >= stats.Records || stats.Unfinished {
			t.Errorf("%+v", stats)
		}
		r.cleaned()
		named := make(map[string]bool)
		for _, s := range r.entries() {
			named[s.Key] = true
		}
		dead, err := r.owner.Cat.AllDeadObjects(t.Context())
		r.must(err)
		var noted []string
		for _, d := range dead {
			noted = append(noted, d.Keys...)
			if wait := time.Until(d.Due); wait != time.Minute {
				t.Errorf("%v are deleted in %v", d.Keys, wait)
			}
		}
		for _, s := range before {
			if !named[s.Key] && !slices.Contains(noted, s.Key) {
				t.Errorf("%s is forgotten", s.Key)
			}
		}
		stats, err = r.newJob("broker-1").Turn(t.Context())
		r.must(err)
		if stats.Cleaned != 0 || stats.Logs != 1 {
			t.Errorf("again: %+v", stats)
		}
	})
}

// A pass that begins in the middle of a segment does not see the end of a
// transaction before it: its producer's next one is not taken for aborted.
func TestBeginsBehindAnAbort(t *testing.T) {
	r := newRig(t.Context(), t, nil)
	at := time.Now().UnixMilli()
	r.produce(record.None, 101, at, kv{text("a"), nil})
	r.marker(101, false)
	r.produce(record.LZ4, -1, at, kv{text("k"), text("old")}) // in a frame of its own
	r.produce(record.LZ4, 100, at, kv{text("z"), text("open")})
	r.produce(record.LZ4, 101, at, kv{text("k"), text("new")})
	r.seal()
	if n := r.turn(); n != 1 {
		t.Errorf("%d passes up to the open transaction", n)
	}
	r.marker(101, true)
	r.marker(100, true)
	r.produce(record.None, -1, at, kv{text("q"), text("q")})
	r.seal()
	r.turn()
	r.check()
}

// An aborted transaction is listed for as long as its marker is there, also by
// what is cleaned once more when none of its records are left: consumers that have them
// from before ask which were aborted.
func TestAbortedWhileItsMarkerStays(t *testing.T) {
	r := newRig(t.Context(), t, nil)
	at := r.now.UnixMilli()
	listed := func() (all []bundle.AbortedTxn) {
		for _, s := range r.entries() {
			g, err := cold.ReadFooter(r.ctx, r.owner.Store, s)
			r.must(err)
			all = append(all, g.Aborted...)
		}
		return all
	}
	r.produce(record.None, 100, at, kv{text("a"), text("aborted")})
	r.produce(record.None, -1, at, kv{text("a"), text("b")})
	r.marker(100, false)
	r.seal()
	before := listed()
	for n, gone := range []bool{false, false, false, true} { // as the marker: stamped only by the second pass
		if gone {
			r.now = r.now.Add(2 * time.Second)
		}
		r.produce(record.None, 100, at, kv{text("a"), fmt.Append(nil, n)})
		r.marker(100, true)
		r.seal()
		r.turn()
		r.check()
		if now := listed(); gone && len(now) > 0 || !gone && !slices.Equal(now, before) {
			t.Errorf("after %d passes %v is listed, before it was %v", n+1, now, before)
		}
	}
}

// Only one at a time; and a topic that is not compacted stays as it is.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHistory(t)
		_, err := r.owner.Cat.AcquireLease(t.Context(), JobName, "function", time.Minute)
		r.must(err)
		if stats, err := r.newJob("broker-1").Turn(t.Context()); err != nil || stats.Logs > 0 {
			t.Errorf("a second schedule worked too: %+v, %v", stats, err)
		}
		r.must(r.owner.Cat.AlterTopicConfigs(t.Context(), "c", func(m map[string]string) (map[string]string, error) {
			m["cleanup.policy"] = "delete"
			return m, nil
		}))
		if stats, err := r.newJob("function").Turn(t.Context()); err != nil || stats.Logs > 0 {
			t.Errorf("%+v, %v", stats, err)
		}
	})
}

// outcome is what becomes of a call.
type outcome int

const (
	fails outcome = iota
	applied
	later
	killed // and the process with it
)

// at arms the n-th call of both stores, and all of a commit's repeats; did
// tells whether it came to it. A killed process gets no further answer.
func (r *rig) at(n int, what outcome, kill context.CancelFunc) (did *bool) {
	did = new(bool)
	calls, dead := 0, false
	hit := func() bool {
		calls++
		if calls == n {
			*did, dead = true, what == killed
			kill()
			return true
		}
		return dead
	}
	r.owner.Meta.Hook = func(string, []meta.Op) memmeta.Fault {
		if !hit() {
			return memmeta.Fault{}
		}
		switch what {
		case applied:
			return memmeta.Fault{Fail: true, Apply: true}
		case later:
			return memmeta.Fault{Fail: true, Later: 20 * time.Minute}
		}
		return memmeta.Fault{Fail: true}
	}
	r.owner.Store.SetFault(func(memstore.Op, string) memstore.Fault {
		if !hit() {
			return memstore.Fault{}
		}
		switch what {
		case applied:
			return memstore.Fault{Kind: memstore.FailApplied}
		case later:
			return memstore.Fault{Kind: memstore.LandLater, After: 20 * time.Minute}
		}
		return memstore.Fault{Kind: memstore.Fail}
	})
	return did
}

func (r *rig) disarm() {
	r.owner.Meta.Hook = nil
	r.owner.Store.SetFault(nil)
}

// eachHistory runs a test on each history.
func eachHistory(t *testing.T, name string, test func(t *testing.T, history func(*testing.T) *rig)) {
	t.Helper()
	for kind, history := range histories {
		t.Run(kind+" "+name, func(t *testing.T) { test(t, history) })
	}
}

// A turn that fails, or is killed, at any call does no harm, and a later one
// ends its work.
func TestFaultAtEachCall(t *testing.T) {
	for name, what := range map[string]outcome{"fails": fails, "applied": applied, "later": later, "killed": killed} {
		eachHistory(t, name, func(t *testing.T, history func(*testing.T) *rig) {
			calls := 0
			for did := true; did; calls++ {
				synctest.Test(t, func(t *testing.T) {
					r := history(t)
					ctx, kill := context.WithCancel(t.Context())
					defer kill()
					if what != killed {
						kill = func() {}
					}
					hit := r.at(calls+1, what, kill)
					_, err := r.newJob("broker-1").Turn(ctx)
					did = *hit
					if err != nil && !did {
						t.Fatal(err)
					}
					r.disarm()
					time.Sleep(2 * leaseTime) // what was late has landed
					_, err = r.newJob("function").Turn(t.Context())
					r.must(err)
					r.cleaned()
				})
			}
			if calls < 30 {
				t.Errorf("only %d calls", calls)
			}
		})
	}
}

// Two that are at it at once, as when one was stopped for longer than its lease
// at any call, and goes on then.
func TestTwiceAtOnce(t *testing.T) { eachHistory(t, "", testTwiceAtOnce) }

func testTwiceAtOnce(t *testing.T, history func(*testing.T) *rig) {
	calls := 0
	for did := true; did; calls++ {
		synctest.Test(t, func(t *testing.T) {
			r := history(t)
			n, within := 0, false
			did = false
			pause := func() {
				if n++; within || n != calls+1 {
					return
				}
				did, within = true, true
				time.Sleep(2 * leaseTime)
				_, err := r.newJob("function").Turn(t.Context())
				r.must(err)
				within = false
			}
			r.owner.Meta.Hook = func(string, []meta.Op) memmeta.Fault { pause(); return memmeta.Fault{} }
			r.owner.Store.SetFault(func(memstore.Op, string) memstore.Fault { pause(); return memstore.Fault{} })
			if _, err := r.newJob("broker-1").Turn(t.Context()); err != nil && !did {
				t.Fatal(err)
			}
			r.disarm()
			r.cleaned()
		})
	}
	if calls < 30 {
		t.Errorf("only %d calls", calls)
	}
}

// What others do to the log at any call of a turn is not undone, and the next
// turn ends the work.
func TestOthersGoOn(t *testing.T) {
	for name, act := range map[string]func(r *rig){
		"owner": func(r *rig) {
			r.produce(record.None, 1, time.Now().UnixMilli(), kv{text("a"), text("new")}, kv{text("g"), text("new")})
			r.seal()
		},
		"retention, without any grace": func(r *rig) {
			r.owner.Remove(r.log, 1)
			r.model.forget(r.log.Start)
		},
	} {
		eachHistory(t, name, func(t *testing.T, history func(*testing.T) *rig) {
			calls := 0
			for did := true; did; calls++ {
				synctest.Test(t, func(t *testing.T) {
					r := history(t)
					n := 0
					did = false
					r.owner.Meta.Hook = func(string, []meta.Op) memmeta.Fault {
						if n++; n == calls+1 {
							did = true
							act(r)
						}
						return memmeta.Fault{}
					}
					_, err := r.newJob("broker-1").Turn(t.Context())
					r.must(err)
					r.disarm()
					time.Sleep(time.Minute) // until merging is due again
					_, err = r.newJob("broker-1").Turn(t.Context())
					r.must(err)
					r.cleaned()
				})
			}
			if calls < 10 {
				t.Errorf("only %d calls", calls)
			}
		})
	}
}

// The time of a function is over: what is left is found by the next turn.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHistory(t)
		r.owner.Store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: 3 * time.Second}
		})
		turns := 0
		for unfinished := true; unfinished && turns < 20; turns++ {
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			stats, err := r.newJob("function").Turn(ctx)
			cancel()
			r.must(err)
			unfinished = stats.Unfinished
		}
		if turns < 2 || turns == 20 {
			t.Errorf("%d turns", turns)
		}
		r.disarm()
		r.cleaned()
	})
}
