package enginetest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	workers   = 2               // bubbles at a time
	gcPercent = 400             // worlds are small, and leave much behind
	standing  = 4 * time.Minute // of the machine's time, after which a bubble is taken to stand still: most end within two seconds
)

// TestSim runs VARVE_SIM_SEEDS seeds (100) of one broker, or the one that
// VARVE_SIM_SEED names.
func TestSim(t *testing.T) {
	simulate(t, func(uint64) int { return 1 }, setting(t, "VARVE_SIM_SEEDS", 100))
}

// TestCluster runs VARVE_SIM_SEEDS seeds (200) of three to five brokers.
func TestCluster(t *testing.T) {
	simulate(t, func(seed uint64) int { return 3 + int(seed%3) }, setting(t, "VARVE_SIM_SEEDS", 200))
}

// simulate runs seeds of a cluster and prints what happened in them.
func simulate(t *testing.T, brokers func(seed uint64) int, count uint64) {
	first := setting(t, "VARVE_SIM_FIRST", 1)
	if one := setting(t, "VARVE_SIM_SEED", 0); one > 0 {
		first, count = one, 1
	}
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	var mu sync.Mutex
	total := make(map[string]int)
	var next atomic.Uint64
	next.Store(first)
	t.Run("seeds", func(t *testing.T) {
		for n := range workers {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				for !t.Failed() {
					seed := next.Add(1) - 1
					if seed >= first+count {
						break
					}
					w := play(t, seed, brokers(seed), "")
					for _, bad := range w.verdict() {
						found(t, fmt.Sprintf("seed %d: %s", seed, bad))
					}
					mu.Lock()
					total["seeds"]++
					total["broker lives"] += len(w.cluster.lives)
					total["records acknowledged and read back"] += w.acked()
					for _, p := range w.cluster.lives {
						total["bytes read for their leaders"] += counted(p.metrics, "varve_follower_bytes_out_total")
						total["slots made dormant"] += counted(p.metrics, "varve_slot_lulls_total")
					}
					for what, n := range w.cluster.ledger.count {
						total[what] += n
					}
					mu.Unlock()
				}
			})
		}
	})
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%8d %s", total[what], what)
	}
}

// play runs one seed in a bubble. Where somebody waits for what the bubble cannot see, as a mutex, its time stops: that
// is told with the seed.
func play(t *testing.T, seed uint64, brokers int, broken rule) *world {
	watch := time.AfterFunc(standing, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("seed %d stands still", seed))
	})
	defer watch.Stop()
	var w *world
	pprof.Do(t.Context(), pprof.Labels("seed", fmt.Sprint(seed)), func(context.Context) { // which a panic tells
		synctest.Test(t, func(t *testing.T) {
			w = newWorld(t, seed, brokers)
			w.cluster.ledger.broken = broken
			w.run()
		})
	})
	return w
}

// findings are what seeds have shown, to be told again at the end: much is printed in between.
var findings struct {
	mu  sync.Mutex
	all []string
}

func found(t *testing.T, what string) {
	t.Error(what)
	findings.mu.Lock()
	defer findings.mu.Unlock()
	findings.all = append(findings.all, what)
}

func TestMain(m *testing.M) {
	if err := os.Setenv("GODEBUG", os.Getenv("GODEBUG")+",tracebacklabels=1"); err != nil {
		panic(err)
	}
	m.Run()
	for _, f := range findings.all {
		fmt.Println(f)
	}
}

// TestBrokenRulesAreCaught breaks one rule after the other on which safety
// stands; within a few seeds each must show. What the rule itself does to the stores is
// not looked at, only what follows.
func TestBrokenRulesAreCaught(t *testing.T) {
	first := setting(t, "VARVE_SIM_FIRST", 1)
	for _, tt := range []struct {
		broken   rule
		brokers  int
		symptoms func(*world) []string
	}{
		{putReplaces, 1, (*world).anomalies},
		{sealsVanish, 1, (*world).anomalies},
		{trimFirst, 1, (*world).verdict},
		{followerAhead, 3, (*world).anomalies},
		{followerForgets, 3, (*world).anomalies},
	} {
		t.Run(string(tt.broken), func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+20; seed++ {
				if bad := tt.symptoms(play(t, seed, tt.brokers, tt.broken)); len(bad) > 0 {
					t.Logf("seed %d: %s", seed, bad[0])
					return
				}
			}
			t.Error("no seed has shown it")
		})
	}
}

// TestFencedWhileIdle lets somebody take an idle broker's slots and die: the
// broker must find out without having written anything, and serve again.
func TestFencedWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, 1, 1)
		defer w.end()
		w.cluster.faults.settle()
		first := w.restart(ctx, 1)
		w.createTopics(ctx)
		w.restart(ctx, 1).kill()
		w.cluster.network.listen(first)
		wait(ctx, 10*time.Second)
		cl := w.client()
		defer cl.Close()
		id, err := topicID(ctx, cl, keptTopic)
		if err != nil {
			t.Fatal(err)
		}
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group = group
		req.Topics = []kmsg.OffsetCommitRequestTopic{{TopicID: id, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 7}}}}
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if r, err := req.RequestWith(limit, cl); err != nil || r.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("commit: %+v, %v", r, err)
		}
	})
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
