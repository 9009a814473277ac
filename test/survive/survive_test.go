// Package survive kills the broker process under load and checks what it had
// acknowledged: every record is there once, in order, unchanged.
package survive

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"math/rand/v2"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestKill9 kills the broker at random moments, SURVIVE_ROUNDS times (10),
// while an idempotent producer with acks=all writes, restarts it each time,
// and then reads everything back. Small segments and checkpoints make a kill
// land in each of their steps sooner or later.
func TestKill9(t *testing.T) {
	rounds := 10
	if s := os.Getenv("SURVIVE_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	loadgen := build(t)
	b := brokertest.Start(t, "wal.checkpoint.objects=64", "log.segment.bytes=1048576")
	for round := range rounds {
		topic := fmt.Sprintf("survive-%d", round)
		log := filepath.Join(t.TempDir(), "acked.log")
		produced := make(chan result, 1)
		go func() {
			produced <- run(t.Context(), loadgen, "survive", "--bootstrap", b.Addr, "--topic", topic, "--seconds", "4", "--partitions", "6", "--batch", "65536", "--log", log)
		}()
		begun(t, log)
		for range 2 {
			wait(t, time.Duration(300+rng.IntN(1200))*time.Millisecond)
			b.Kill()
			b.Restart(t)
		}
		if r := <-produced; r.err != nil {
			t.Fatalf("round %d: produce: %v\n%s", round, r.err, r.out)
		}
		r := run(t.Context(), loadgen, "survive", "--mode", "verify", "--bootstrap", b.Addr, "--topic", topic, "--log", log, "--settle", "1s")
		if r.err != nil {
			t.Fatalf("round %d: verify: %v\n%s", round, r.err, r.out)
		}
		check(t, round, r.out)
	}
}

func check(t *testing.T, round int, out []byte) {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("round %d: %v\n%s", round, err, out)
	}
	for _, k := range []string{"lost", "duplicated", "reordered", "corrupted", "moved", "offset_gaps", "acked_offsets_given_twice"} {
		if n, ok := v[k].(float64); !ok || n != 0 {
			t.Errorf("round %d: %s: %v\n%s", round, k, v[k], out)
		}
	}
	if n, ok := v["acked"].(float64); !ok || n == 0 {
		t.Errorf("round %d: nothing was acknowledged\n%s", round, out)
	}
	t.Logf("round %d: %v acknowledged, %v read", round, v["acked"], v["read"])
}

type result struct {
	out []byte
	err error
}

func run(ctx context.Context, exe string, args ...string) result {
	cmd := exec.CommandContext(ctx, exe, args...)
	out, err := cmd.Output()
	return result{out, err}
}

func build(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "loadgen")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", exe, ".")
	cmd.Dir = filepath.Join(brokertest.Root(t), "bench", "loadgen")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build loadgen: %v\n%s", err, out)
	}
	return exe
}

// begun waits until the load has its topic: it does not try again to make one.
func begun(t *testing.T, log string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; wait(t, 5*time.Millisecond) {
		if _, err := os.Stat(log); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no load in a minute")
		}
	}
}

// wait lets the load run for a while: the moment of the kill is the test's input.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
