package sweep

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/objstore"
)

// A grace that is longer than a function lives ends in a later run: what was found
// then is deleted, what has come since has its own grace.
func TestGraceOutlivesRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		dead, _ := litter(t, o)
		const grace = 20 * time.Minute
		run := func() Stats {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
			defer cancel()
			begin := time.Now()
			stats, err := job(t, o, o.Store, grace).Turn(ctx)
			if err != nil || time.Since(begin) > 0 {
				t.Errorf("it took %v: %v", time.Since(begin), err)
			}
			return stats
		}
		if stats := run(); !stats.Unfinished || stats.Objects > 0 {
			t.Errorf("first run: %+v", stats)
		}
		time.Sleep(4 * time.Minute)
		if stats := run(); !stats.Unfinished || stats.Objects > 0 {
			t.Errorf("before the grace is over: %+v", stats)
		}
		time.Sleep(time.Hour)
		before := o.Store.Keys()
		if stats := run(); stats.Unfinished || stats.Objects != int64(len(dead)) {
			t.Errorf("after it: %+v of %d objects", stats, len(dead))
		}
		if d := without(before, dead); !slices.Equal(o.Store.Keys(), d) {
			t.Errorf("left: %v\nwant: %v", o.Store.Keys(), d)
		}
	})
}

// Who waits for a long grace keeps the lease meanwhile, and is stopped without
// forgetting what is held.
func TestWaitsUnderLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := filled(t)
		dead, _ := litter(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		var stats Stats
		var err error
		go func() {
			defer cancel()
			stats, err = job(t, o, o.Store, time.Hour).Turn(ctx)
		}()
		time.Sleep(10 * leaseTime)
		if lease, err := o.Cat.Lease(t.Context(), JobName); err != nil || lease.Free("broker-1", time.Now()) {
			t.Errorf("anybody may take it: %v", err)
		}
		cancel()
		synctest.Wait()
		if err != nil || !stats.Unfinished || stats.Objects > 0 {
			t.Errorf("stopped: %+v, %v", stats, err)
		}
		time.Sleep(time.Hour)
		begin := time.Now()
		if stats, err := job(t, o, o.Store, time.Hour).Turn(t.Context()); err != nil || stats.Objects != int64(len(dead)) || time.Since(begin) > 0 {
			t.Errorf("gone on: %+v, %v after %v", stats, err, time.Since(begin))
		}
	})
}

// The longest lot has room in the job's state; what was due by a clock that was
// ahead is due when it would be if it had been found now.
func TestSaved(t *testing.T) {
	key := fmt.Sprintf("seg/%s/%010d/%020d-%010d-%020d-%020d", kafka.TopicID{7}.Hex(), 0, 0, 1, 0, 1)
	now := time.UnixMilli(1_000_000)
	full := lot{objects: slices.Repeat([]objstore.Info{{Key: key, Size: 1 << 40}}, pageSize), why: slices.Repeat([]string{"w"}, pageSize), due: now.Add(time.Hour), upTo: key}
	saved := save([]lot{full, full})
	if len(saved) != 1 {
		t.Fatalf("%d lots saved", len(saved))
	}
	var l catalog.Lease
	l.WriteState(position{Held: saved})
	if len(l.State) > meta.MaxItemBytes-1<<10 {
		t.Errorf("a state of %d bytes", len(l.State))
	}
	at, err := positionOf(l)
	if err != nil {
		t.Fatal(err)
	}
	want := full
	want.due = now.Add(time.Minute)
	if diff := cmp.Diff([]lot{want}, restore(at.Held, now.Add(time.Minute)), cmp.AllowUnexported(lot{})); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
}
