package sweep

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/tiertest"
	"github.com/varvelog/varve/tiering/wal"
)

// filled returns an owner with a sealed session behind it and a live one: two
// segments, a checkpoint, a WAL.
func filled(t tiertest.T) *tiertest.Owner {
	t.Helper()
	o := tiertest.New(context.Background(), t, map[string]int32{"a": 1})
	l := o.Logs[0]
	for i := range 3 {
		for j := range 3 {
			o.Append(l, tiertest.Batch(record.None, 10*i+j, 3, 100))
			o.Flush()
		}
		if i < 2 {
			o.Seal(l)
		}
	}
	o.Checkpoint(false)
	for range 2 {
		o.Append(l, tiertest.Batch(record.None, 100, 3, 100))
		o.Flush()
		o.Restart()
	}
	o.Append(l, tiertest.Batch(record.None, 102, 3, 100))
	o.Flush()
	return o
}

// litter puts what killed writers leave, and returns what of it nobody can ever
// name, and what somebody still may.
func litter(t tiertest.T, o *tiertest.Owner) (dead, alive []string) {
	t.Helper()
	topic := o.Logs[0].TP.Topic.Hex()
	seg := func(by string, epoch int) string {
		return fmt.Sprintf("seg/%s/%010d/%020d-%s-%020d-%020d", topic, 0, 4, by, epoch, 77)
	}
	for range 2 { // the second run of compaction is at it
		if _, err := o.Cat.AcquireLease(context.Background(), "compact", "h", 0); err != nil {
			t.Fatalf("lease: %v", err)
		}
	}
	const session, job = "0000000001", "-000000001"
	dead = []string{
		seg(session, 0), seg(session, 1), seg(job, 1), "seg/" + kafka.TopicID{9}.Hex() + "/" + strings.Split(seg(session, 0), "/")[2] + "/" + strings.Split(seg(session, 0), "/")[3],
		"ckpt/0000000001/00000000000000000000/00000000000000000099",
		wal.Key(bundle.Origin{Broker: 1, Seq: 999}), // behind the seal
		wal.Key(bundle.Origin{Broker: 1, Seq: 0}),   // trimmed
	}
	alive = []string{
		seg(session, 2), seg(session, 9), seg(job, 2), seg(job, 3), "seg/merged", "whatever/1",
		"ckpt/0000000001/00000000000000000002/00000000000000000099", "ckpt/0000000007/00000000000000000000/00000000000000000099",
		wal.Key(bundle.Origin{Broker: 1, Epoch: 2, Seq: 999}), wal.Key(bundle.Origin{Broker: 3, Epoch: 0, Seq: 1}),
	}
	for _, key := range slices.Concat(dead, alive) {
		if err := o.Store.Put(context.Background(), key, objstore.Buffers{[]byte("litter")}); err != nil {
			t.Fatalf("put: %v", err)
		}
	}
	stray, _ := bundle.SealBuffers(bundle.Origin{Broker: 1, Seq: 500}, bundle.Origin{Broker: 9})
	alive = append(alive, wal.Key(bundle.Origin{Broker: 1, Seq: 500})) // a second seal
	if err := o.Store.Put(context.Background(), alive[len(alive)-1], objstore.Buffers(stray)); err != nil {
		t.Fatalf("put: %v", err)
	}
	return dead, alive
}

func job(t tiertest.T, o *tiertest.Owner, store objstore.Store, grace time.Duration) *Job {
	t.Helper()
	j, err := New(Options{
		Catalog: catalog.New(o.Meta), Store: store, Holder: "function", Grace: func() time.Duration { return grace },
		Interval: func() time.Duration { return time.Hour },
	})
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	return j
}

func without(all, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(k string) bool { return slices.Contains(gone, k) })
}

// What nobody can ever name goes, after the grace; all else stays, seals above all.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		sound := o.Store.Keys()
		dead, alive := litter(t, o)
		before := o.Store.Keys()
		begin := time.Now()
		stats, err := job(t, o, o.Store, time.Minute).Turn(t.Context())
		if err != nil || stats.Unfinished || stats.Objects != int64(len(dead)) || stats.Bytes != 6*stats.Objects {
			t.Errorf("%+v, %v", stats, err)
		}
		if time.Since(begin) < time.Minute {
			t.Error("readers had no time")
		}
		if d := without(before, dead); !slices.Equal(o.Store.Keys(), d) {
			t.Errorf("left: %v\nwant: %v", o.Store.Keys(), d)
		}
		if len(o.Store.Keys()) != len(sound)+len(alive) {
			t.Error("the rest is not all there")
		}
		if stats, err = job(t, o, o.Store, 0).Turn(t.Context()); err != nil || stats.Looked != 0 {
			t.Errorf("not due, but %+v, %v", stats, err)
		}

		// The slots move on: the sealed sessions' WAL and checkpoints are needed no more.
		o.Checkpoint(true)
		time.Sleep(time.Hour)
		if stats, err = job(t, o, o.Store, 0).Turn(t.Context()); err != nil || stats.Objects < 2 || stats.Sessions != 2 {
			t.Errorf("%+v, %v", stats, err)
		}
		if left, err := o.Cat.AllSessions(t.Context()); err != nil || len(left) != 1 || left[0].ID.Epoch != 2 {
			t.Errorf("sessions %v, %v: only the live one is of use", left, err)
		}
		seals := 0
		for _, key := range o.Store.Keys() {
			origin, ok := wal.ParseKey(key)
			if body, _ := o.Store.Object(key); ok && origin.Epoch < 2 && origin.Broker == 1 {
				if seals++; len(body) != bundle.SealSize {
					t.Errorf("%s is left", key)
				}
			}
		}
		if seals != 3 {
			t.Errorf("%d seals", seals)
		}
	})
}

// A session that is sealed and owns a slot may yet commit what it uploaded.
func TestOwnerIsSpared(t *testing.T) {
	o := filled(t)
	ctx := t.Context()
	mine, err := o.Cat.Session(ctx, catalog.SessionID{Broker: 1, Epoch: 2})
	if err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("seg/%s/%010d/%020d-%010d-%020d-%020d", o.Logs[0].TP.Topic.Hex(), 0, 0, 1, 2, 5)
	if err := o.Store.Put(ctx, key, objstore.Buffers{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	check := func(state catalog.SessionState) {
		t.Helper()
		if _, err := All(ctx, Options{Catalog: o.Cat, Store: o.Store}); err != nil {
			t.Fatal(err)
		}
		if _, ok := o.Store.Object(key); !ok {
			t.Errorf("swept while its writer is %s and owns slots", state)
		}
	}
	check(catalog.Live)
	fenced, err := o.Cat.FenceSession(ctx, mine)
	if err != nil {
		t.Fatal(err)
	}
	check(catalog.Fenced)
	if _, err := o.Cat.RecordSeal(ctx, fenced, 999); err != nil {
		t.Fatal(err)
	}
	check(catalog.Sealed)
}

// What retention has noted is its to delete, when its time has come.
func TestNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		l := o.Logs[0]
		segs, err := o.Cat.Segments(t.Context(), l.TP, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		o.SetStart(l, segs[0].End)
		if err := o.Cat.SwapSegments(t.Context(), catalog.Swap{Topic: &l.Topic, Old: segs, Due: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, err := All(t.Context(), Options{Catalog: o.Cat, Store: o.Store}); err != nil {
			t.Fatal(err)
		}
		if _, ok := o.Store.Object(segs[0].Key); !ok {
			t.Error("swept before its time")
		}
	})
}

// Random steps of an owner, with whole and broken sweeps in between: what the
// owner has stays readable, which each sweep's own judgement cannot hide.
func TestSweepsBetweenSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := tiertest.New(context.Background(), t, map[string]int32{"a": 2, "b": 1})
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			tiertest.Step(t, o, i)
			switch rapid.IntRange(0, 4).Draw(t, "sweep") {
			case 0:
				all(t, o)
			case 1: // cut off after some calls
				left := rapid.IntRange(0, 20).Draw(t, "calls")
				fail := func() bool { left--; return left < 0 }
				o.Meta.Hook = func(string, []meta.Op) memmeta.Fault { return memmeta.Fault{Fail: fail(), Apply: left%2 == 0} }
				o.Store.SetFault(func(memstore.Op, string) memstore.Fault {
					if fail() {
						return memstore.Fault{Kind: memstore.FailApplied}
					}
					return memstore.Fault{}
				})
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
				_, _ = All(ctx, Options{Catalog: catalog.New(o.Meta), Store: o.Store})
				cancel()
				o.Meta.Hook = nil
				o.Store.SetFault(nil)
			}
		}
		all(t, o)
		named(t, o)
		o.Restart()
		o.Checkpoint(true)
		all(t, o)
		named(t, o)
	})
}

func all(t tiertest.T, o *tiertest.Owner) {
	t.Helper()
	if _, err := All(context.Background(), Options{Catalog: catalog.New(o.Meta), Store: o.Store}); err != nil {
		t.Fatalf("sweep: %v", err)
	}
}

// named checks that all that the catalogue and the owner name is there, by the items
// themselves and not by the sweep's view of them.
func named(t tiertest.T, o *tiertest.Owner) {
	t.Helper()
	need := func(key string) {
		if _, ok := o.Store.Object(key); !ok && key != "" {
			t.Fatalf("%s is gone", key)
		}
	}
	for _, l := range o.Logs {
		segs, err := o.Cat.Segments(context.Background(), l.TP, 0, 0)
		if err != nil {
			t.Fatalf("segments: %v", err)
		}
		for _, s := range segs {
			need(s.Key)
		}
		for _, r := range l.Tail() {
			need(r.Key)
		}
	}
	slots, err := o.Cat.Slots(context.Background())
	if err != nil {
		t.Fatalf("slots: %v", err)
	}
	for _, s := range slots {
		for _, c := range s.Checkpoints {
			need(c.Key)
		}
		for _, sp := range s.Spans {
			if _, err := o.Cat.Session(context.Background(), sp.Session); err != nil {
				t.Fatalf("slot %d names session %v: %v", s.Slot, sp.Session, err)
			}
		}
	}
}

// Killed at any call, before or after its effect: nothing that is named is gone,
// and the next schedule finishes.
func TestKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			t.Run(fmt.Sprintf("%d/%v", at, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := filled(t)
					dead, _ := litter(t, o)
					before := o.Store.Keys()
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
					defer cancel()
					calls := 0
					now := func() (fail, apply bool) {
						if calls++; calls < at {
							return false, false
						}
						cancel()
						return true, after && calls == at
					}
					o.Meta.Hook = func(string, []meta.Op) memmeta.Fault {
						fail, apply := now()
						return memmeta.Fault{Fail: fail, Apply: apply}
					}
					o.Store.SetFault(func(memstore.Op, string) memstore.Fault {
						switch fail, apply := now(); {
						case apply:
							return memstore.Fault{Kind: memstore.FailApplied}
						case fail:
							return memstore.Fault{Kind: memstore.Fail}
						}
						return memstore.Fault{}
					})
					_, _ = job(t, o, o.Store, time.Second).Turn(ctx)
					o.Meta.Hook = nil
					o.Store.SetFault(nil)
					more = calls >= at
					named(t, o)
					time.Sleep(reserveTurns * time.Hour)
					if stats, err := job(t, o, o.Store, time.Second).Turn(t.Context()); err != nil || stats.Unfinished {
						t.Fatalf("%+v, %v", stats, err)
					}
					if d := without(before, dead); !slices.Equal(o.Store.Keys(), d) {
						t.Errorf("left: %v\nwant: %v", o.Store.Keys(), d)
					}
				})
			})
		}
	}
}

// listing is a store of very many objects, which it makes up as they are listed.
type listing struct {
	objstore.Store
	count    int
	key      func(i int) string
	at       map[string]int // where the listing goes on behind a key
	calls    int            // of List
	deletes  int            // of Delete, of so many keys
	took     time.Duration  // of a List
	deleted  int
	peak     uint64
	measured bool
}

func (l *listing) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if prefix != "" {
		return nil, nil // manifests
	}
	if l.took > 0 {
		select {
		case <-time.After(l.took):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if after == "" {
		l.at = make(map[string]int)
	}
	from := l.at[after]
	var page []objstore.Info
	for i := from; i < l.count && len(page) < limit; i++ {
		page = append(page, objstore.Info{Key: l.key(i), Size: 100})
	}
	if len(page) > 0 {
		l.at[page[len(page)-1].Key] = from + len(page)
		if l.measured {
			delete(l.at, after)
		}
	}
	if l.calls++; l.measured && l.calls%1000 == 0 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		l.peak = max(l.peak, m.HeapAlloc)
	}
	return page, nil
}

func (l *listing) Delete(_ context.Context, keys ...string) error {
	l.deletes, l.deleted = l.deletes+1, l.deleted+len(keys)
	return nil
}

func manySegments(count int) *listing {
	topic := kafka.TopicID{7}.Hex()
	return &listing{count: count, key: func(i int) string {
		epoch := 9 // of a session that may be another cluster's
		if i%1000 == 7 {
			epoch = 0
		}
		return fmt.Sprintf("seg/%s/%010d/%020d-%010d-%020d-%020d", topic, 0, i, 1, epoch, 1)
	}}
}

// Ten million keys pass through a few pages' memory.
func TestTenMillionKeys(t *testing.T) {
	o := filled(t)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	few, other := manySegments(0), "seg/"+kafka.TopicID{7}.Hex()+"/"
	store := &listing{count: 10_000_000, measured: true, key: func(i int) string {
		if i%1000 == 7 {
			return few.key(i)
		}
		return other + strconv.Itoa(1e9+i) // which costs less to make up
	}}
	stats, err := All(t.Context(), Options{Catalog: o.Cat, Store: store})
	if err != nil || stats.Looked != 10_000_000 || store.deleted != 10_000 {
		t.Errorf("%+v, %v", stats, err)
	}
	grown := int64(store.peak) - int64(m.HeapAlloc)
	t.Logf("%d listings, %d deletes of %d keys, %d KiB more heap", store.calls, store.deletes, store.deleted, grown>>10)
	if grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if most := 10_000_000/pageSize + 1; store.calls > most || store.deletes > most {
		t.Errorf("%d listings and %d deletes", store.calls, store.deletes)
	}
}

// A turn whose time is over goes on where it was, and forgets nothing that it held.
func TestContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		store := manySegments(40_500)
		store.took = 5 * time.Second
		turns := 0
		looked := int64(0)
		for more := true; more; turns++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			stats, err := job(t, o, store, 20*time.Second).Turn(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			looked, more = looked+stats.Looked, stats.Unfinished
		}
		if turns < 3 || turns > 10 || looked < 40_500 || store.deleted != 41 {
			t.Errorf("%d turns looked at %d objects and deleted %d", turns, looked, store.deleted)
		}
	})
}

// uploading is a store that keeps unfinished uploads.
type uploading struct {
	objstore.Store
	err      error
	before   time.Time
	prefixes []string
}

func (u *uploading) AbortUploads(_ context.Context, prefix string, before time.Time) (int, error) {
	u.before, u.prefixes = before, append(u.prefixes, prefix)
	return map[string]int{"seg/": 2, "ckpt/": 1}[prefix], u.err
}

// Nothing is deleted where the newest manifest is another cluster's.
func TestForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		dead, _ := litter(t, o)
		put := func(change int64, id string) {
			m := &manifest.Manifest{Format: 1, Change: change, Cluster: manifest.Cluster{ID: id}}
			if err := manifest.Write(t.Context(), o.Store, m, "w"); err != nil {
				t.Fatal(err)
			}
		}
		cl, err := o.Cat.ReadCluster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		put(1, cl.ID)
		put(2, "another")
		before := o.Store.Keys()
		if stats, err := job(t, o, o.Store, 0).Turn(t.Context()); !errors.Is(err, catalog.ErrForeign) || stats.Objects != 0 {
			t.Errorf("%+v, %v", stats, err)
		}
		if !slices.Equal(o.Store.Keys(), before) {
			t.Error("objects are gone")
		}
		put(3, cl.ID)
		if stats, err := job(t, o, o.Store, 0).Turn(t.Context()); err != nil || stats.Objects != int64(len(dead)) {
			t.Errorf("%+v, %v", stats, err)
		}
	})
}

// Unfinished uploads of some age are given up, of what is uploaded in parts. That this fails does not hold up the sweep.
func TestUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		store := &uploading{Store: o.Store}
		if stats, err := job(t, o, store, 0).Turn(t.Context()); err != nil || stats.Uploads != 3 || time.Since(store.before) != uploadAge {
			t.Errorf("%+v, %v, those before %v", stats, err, store.before)
		}
		if want := []string{"seg/", "ckpt/"}; !slices.Equal(store.prefixes, want) {
			t.Errorf("of %v, want %v", store.prefixes, want)
		}
		time.Sleep(time.Hour)
		store.err = objstore.ErrNotFound
		if _, err := job(t, o, store, 0).Turn(t.Context()); err == nil {
			t.Error("no error")
		}
		if due, err := job(t, o, store, 0).due(t.Context()); due || err != nil {
			t.Errorf("due at once: %v, %v", due, err)
		}
		time.Sleep(time.Hour)
		if stats, _ := job(t, o, store, 0).Turn(t.Context()); stats.Looked == 0 {
			t.Error("the next pass did not begin anew")
		}
	})
}

// A last pass in a time that has not come yet, by a clock that was ahead, keeps nobody from the next one.
func TestClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		lease, err := o.Cat.AcquireLease(t.Context(), JobName, "function", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		lease.WriteState(position{Passed: time.Now().Add(365 * 24 * time.Hour).UnixMilli()})
		if err := o.Cat.ReleaseLease(t.Context(), lease, 0); err != nil {
			t.Fatal(err)
		}
		j := job(t, o, o.Store, 0)
		if due, err := j.due(t.Context()); err != nil || !due {
			t.Errorf("due: %v, %v", due, err)
		}
		if stats, err := j.Turn(t.Context()); err != nil || stats.Looked == 0 {
			t.Errorf("%+v, %v", stats, err)
		}
		if due, err := j.due(t.Context()); err != nil || due {
			t.Errorf("due again: %v, %v", due, err)
		}
	})
}
