package faults

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestStartEmpty: from exec to readiness on an empty directory. The bound is
// that of a busy machine; on a quiet one it takes well under 300 ms.
func TestStartEmpty(t *testing.T) {
	began := time.Now()
	brokertest.Start(t)
	bounded(t, "on an empty directory", began, time.Second)
}

// TestStartOnData: the start after kill -9 on a gigabyte in a thousand
// partitions, as it is found: partly sealed, partly in the WAL.
func TestStartOnData(t *testing.T) {
	b := brokertest.Start(t)
	p := dial(t, b.Addr)
	for i := range 40 {
		p.create(fmt.Sprintf("idle-%d", i), 25)
	}
	p.create("busy", 12)
	cmd := exec.CommandContext(t.Context(), brokertest.Binary(t), "bench", "produce", "--bootstrap", b.Addr, "--topic", "busy", "--duration", "6s")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.Kill()
	began := time.Now()
	b.Restart(t)
	bounded(t, "on data after kill -9", began, 3*time.Second)
	b.Stop(t)
	began = time.Now()
	b.Restart(t)
	bounded(t, "on data after a drain", began, 3*time.Second)
	t.Logf("the data: %s", out)
}

func bounded(t *testing.T, what string, began time.Time, most time.Duration) {
	t.Helper()
	took := time.Since(began)
	t.Logf("from exec to ready %s: %v", what, took.Round(time.Millisecond))
	if took > most {
		t.Errorf("more than %v", most)
	}
}
