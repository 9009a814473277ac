package group_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/retention"
)

// job returns the retention job with settings, as in another process.
func (w *world) job(settings map[string]string) *retention.Job {
	w.t.Helper()
	cfg, err := config.ParseBroker(settings)
	w.check(err)
	j, err := retention.New(retention.Options{
		Catalog: catalog.New(w.store), Store: memstore.New(), Slots: 1, Holder: catalog.FunctionHolder,
		Config: func() *config.Broker { return cfg },
	})
	w.check(err)
	return j
}

// turn has the job look once, and returns how many offsets went.
func (w *world) turn(settings map[string]string) int {
	w.t.Helper()
	stats, err := w.job(settings).Turn(w.t.Context())
	w.check(err)
	return stats.Offsets
}

var hour = map[string]string{"offsets.retention.minutes": "60", "offsets.retention.check.interval.ms": "1000"}

// TestJobExpires: what the job removes of groups that nobody has loaded, and of
// one that a coordinator still has in memory.
func TestJobExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		u, err := catalog.New(w.store).CreateTopic(t.Context(), catalog.Topic{Name: "u", Partitions: 1, ReplicationFactor: 1})
		w.check(err)
		c, stop := w.start("offsets.retention.minutes", "60")
		j := stable(t, c)
		want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 5)), kafka.None)
		want(t, "commit", commit(t, c, commitReq("simple", "", -1, "t", 6)), kafka.None)
		want(t, "commit", commit(t, c, commitReq("", "", -1, "t", 7)), kafka.None)
		stop() // g has a member in the catalogue, which nobody hears from
		time.Sleep(61 * time.Minute)
		c, stop = w.start("offsets.retention.minutes", "6000")
		defer stop()
		want(t, "commit", commit(t, c, commitReq("simple", "", -1, "u", 8)), kafka.None)
		want(t, "offsets that went", w.turn(hour), 2)
		want(t, "of a member's group", describe(t, c, 5, "g"), `g 0 Stable "range" 1; `)
		want(t, "commit under the job", commit(t, c, commitReq("simple", "", -1, "u", 9)), kafka.NotCoordinator)
		want(t, "commit again", commit(t, c, commitReq("simple", "", -1, "u", 9)), kafka.None)
		want(t, "expired", fetchTopic(t, c, "simple", "t"), -1)
		want(t, "young", fetchTopic(t, c, "simple", "u"), 9)
		w.check(catalog.New(w.store).DeleteTopic(t.Context(), "u", u.ID))
		time.Sleep(2 * time.Minute) // and nobody has it in memory
		want(t, "of a deleted topic", w.turn(hour), 1)
		want(t, "list", list(t, c, nil, nil), "0: g consumer Empty classic; ")
		time.Sleep(time.Hour)
		want(t, "of a group that became empty", w.turn(hour), 1)
		want(t, "list", list(t, c, nil, nil), "0: ")
		want(t, "nothing left", w.turn(hour), 0)
	})
}

// TestCommitsBesideExpiry: the job looks all the time, and no commit that was
// acknowledged goes before its time, whatever becomes of writes.
func TestCommitsBesideExpiry(t *testing.T) {
	var expired atomic.Int64
	for range 10 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { besideExpiry(t, seed, &expired) })
		})
	}
	if expired.Load() < 30 {
		t.Errorf("only %d offsets expired", expired.Load())
	}
}

func besideExpiry(t *testing.T, seed uint64, expired *atomic.Int64) {
	const retained = time.Minute
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(seed, 2))
	var faulty atomic.Bool
	faults := someFaults(seed, 10, &faulty)
	w.store.Hook = func(op string, ops []meta.Op) memmeta.Fault {
		f := faults(op, ops)
		if op != "commit" { // a read that fails would cost the job its turn, and the lease's time
			return memmeta.Fault{Before: f.Before}
		}
		return f
	}
	c, stop := w.start("offsets.retention.minutes", "1", "offsets.retention.check.interval.ms", "36000000")
	defer stop()
	faulty.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			stats, _ := w.job(map[string]string{"offsets.retention.minutes": "1", "offsets.retention.check.interval.ms": "1"}).Turn(ctx) // its writes fail, too
			expired.Add(int64(stats.Offsets))
			time.Sleep(500 * time.Millisecond)
		}
	})
	defer wg.Wait()
	defer cancel()
	for sent := range int64(40) {
		time.Sleep(retained - time.Second + time.Duration(rng.IntN(4000))*time.Millisecond) // the one before is about to expire
		begin := time.Now()
		if commit(t, c, commitReq("g", "", -1, "t", sent)) != kafka.None {
			continue
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		faulty.Store(false)
		_, offsets, err := catalog.New(w.store).LoadGroup(t.Context(), "g")
		w.check(err)
		faulty.Store(true)
		if o, ok := offsets[kafka.TopicPartition{Topic: w.topic.ID}]; time.Since(begin) < retained && (!ok || int64(o.Offset) != sent) {
			t.Fatalf("the catalogue has %+v, %d was acknowledged %v ago", offsets, sent, time.Since(begin))
		}
	}
}

// TestTakeoverLeavesIdleGroups: who takes a slot over writes nothing about
// groups without members, and wakes the others.
func TestTakeoverLeavesIdleGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		stable(t, c)
		for i := range 20 {
			want(t, "commit", commit(t, c, commitReq(fmt.Sprint("idle", i), "", -1, "t", 6)), kafka.None)
		}
		stop()
		w.takeOver()
		var commits atomic.Int64
		w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
			if op == "commit" {
				commits.Add(1)
			}
			return memmeta.Fault{}
		}
		c, stop = w.start()
		defer stop()
		time.Sleep(20 * time.Second) // the member's session is over
		want(t, "describe", describe(t, c, 5, "g"), `g 0 Empty "" 0; `)
		if n := commits.Load(); n > 4 {
			t.Errorf("%d commits", n)
		}
		r := kmsg.NewPtrListGroupsRequest()
		r.Version = 5
		want(t, "groups", len(c.List(t.Context(), r).Groups), 21)
	})
}
