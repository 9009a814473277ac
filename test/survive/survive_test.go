// Package survive kills the broker process under load and checks what it had
// acknowledged: every record is there once, in order, unchanged.
package survive

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"math/rand/v2"

	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/test/internal/load"
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
	loadgen := load.Build(t)
	b := brokertest.Start(t, "wal.checkpoint.objects=64", "log.segment.bytes=1048576", "log.dormant.ms=1000")
	for round := range rounds {
		l := load.Start(t, loadgen, b.Addr, fmt.Sprintf("survive-%d", round), "--seconds", "4", "--partitions", "6", "--batch", "65536")
		for range 2 {
			load.Wait(t, time.Duration(300+rng.IntN(1200))*time.Millisecond)
			b.Kill()
			b.Restart(t)
		}
		_, read := l.Check(t)
		t.Logf("round %d: %v acknowledged, %v read", round, read["acked"], read["read"])
	}
}
