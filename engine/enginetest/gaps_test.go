package enginetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/internal/catalog"
)

const (
	gapPartitions = 256
	gapPut        = 25 * time.Millisecond // of a PUT, as S3's
	gapRate       = 4 * time.Millisecond  // between two records
)

// TestGaps measures how long a record waits for its acknowledgement when its
// leader is killed, drained, stopped, paused and started again: by the bubble's clock, so
// what is seen is what Varve waits for, and not the machine.
func TestGaps(t *testing.T) {
	for _, c := range []struct {
		name       string
		commit     time.Duration // that a commit of the catalogue takes longer
		move, kill time.Duration // the longest wait for planned moves, and after a kill
	}{
		{"quick catalogue", 0, 400 * time.Millisecond, time.Second}, // moves are mostly below 225 ms
		{"slow catalogue", 100 * time.Millisecond, 1200 * time.Millisecond, 1500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gaps(t, map[string]time.Duration{"put": gapPut, "commit": c.commit}, c.move, c.kill)
			})
		})
	}
}

func gaps(t *testing.T, slower map[string]time.Duration, move, kill time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := calmWorld(t, cancel, 3, map[string]string{"wal.interval.ms": "100", "metadata.hedge": "true"})
	w.cluster.faults.slower = slower
	defer w.end()
	w.startAll(ctx)
	wait(ctx, 20*time.Second) // slots are even
	cl := w.producer(ctx, kgo.MetadataMaxAge(time.Second), kgo.ProduceRequestTimeout(600*time.Millisecond), kgo.RequestTimeoutOverhead(100*time.Millisecond))
	defer cl.Close()
	if err := createTopic(ctx, cl, "gaps", gapPartitions, nil); err != nil {
		t.Fatal(err)
	}
	load := &gapLoad{waits: make(map[int32]time.Duration)}
	var working sync.WaitGroup
	lctx, stop := context.WithCancel(ctx)
	working.Go(func() { load.run(lctx, cl) })
	wait(ctx, 5*time.Second)
	placement := catalog.New(w.cluster.ledger.items)
	drained := func(ids ...int32) func() {
		return func() {
			if err := placement.AlterPlacement(ctx, func(p *catalog.Placement) { p.Drained = ids }); err != nil {
				t.Error(err)
			}
		}
	}
	amidMoves := func() {
		w.restart(ctx, 1)
		wait(ctx, time.Second)
		w.life(2).kill()
	}
	amidSilence := func() { // of the catalogue, to one of two who must agree
		w.life(2).kill()
		for _, op := range []string{"get", "query", "commit"} {
			w.life(3).stuck.Store(op, true)
		}
	}
	for _, harm := range []struct {
		what  string
		do    func()
		limit time.Duration
	}{
		{"nothing", func() {}, 200 * time.Millisecond},
		{"drain", drained(3), move},
		{"drain undone", drained(), move},
		{"kill", func() { w.life(2).kill() }, kill},
		{"start", func() { w.restart(ctx, 2) }, move},
		{"stop", func() { w.leave(1) }, move},
		{"start", func() { w.restart(ctx, 1) }, move},
		{"pause", func() { w.life(3).pause() }, 7 * time.Second}, // the session timeout is 6 s
		{"resume", func() { w.life(3).resume() }, move},
		{"kill", func() { w.life(1).kill() }, kill},
		{"kill amid moves", amidMoves, kill + move},
		{"start", func() { w.restart(ctx, 2) }, move},
		{"kill amid silence", amidSilence, kill},
	} {
		load.reset()
		harm.do()
		wait(ctx, 20*time.Second)
		longest := load.longest()
		t.Logf("%-17s longest wait of a record: %s", harm.what, longest.Round(time.Millisecond))
		if longest > harm.limit {
			t.Errorf("%s: a record waited for %s, at most %s is allowed", harm.what, longest.Round(time.Millisecond), harm.limit)
		}
	}
	stop()
	working.Wait()
}

// gapLoad writes a record to one partition after the other, and keeps for each how long one waited.
type gapLoad struct {
	mu    sync.Mutex
	waits map[int32]time.Duration
	since time.Time
}

func (l *gapLoad) run(ctx context.Context, cl *client) {
	for n := 0; ctx.Err() == nil; n++ {
		begin, p := time.Now(), int32(n%gapPartitions)
		cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Topic: "gaps", Partition: p, Value: []byte(fmt.Sprint(n))}, func(_ *kgo.Record, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if begin.After(l.since) && err == nil {
				l.waits[p] = max(l.waits[p], time.Since(begin))
			}
		})
		wait(ctx, gapRate)
	}
}

func (l *gapLoad) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.waits)
	l.since = time.Now()
}

func (l *gapLoad) longest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Max(slices.Collect(maps.Values(l.waits)))
}
