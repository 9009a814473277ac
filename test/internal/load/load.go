// Package load puts brokers under an idempotent producer with acks=all and holds
// what it was answered against what can be read back: `loadgen survive`.
package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// Load is a producer under way, or one that has ended.
type Load struct {
	exe, bootstrap, topic string
	log                   string // of all answers
	cmd                   *exec.Cmd
	ended                 chan result
	acks                  []Ack // read from log
}

type result struct {
	out []byte
	err error
}

// Build builds the load generator and returns its path.
func Build(t testing.TB) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "loadgen")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", exe, ".")
	cmd.Dir = filepath.Join(brokertest.Root(t), "bench", "loadgen")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build loadgen: %v\n%s", err, out)
	}
	return exe
}

// Start begins a load with further arguments of `loadgen survive`, and waits
// until it has its topic: it does not try again to make one.
func Start(t testing.TB, exe, bootstrap, topic string, args ...string) *Load {
	t.Helper()
	l := &Load{exe: exe, bootstrap: bootstrap, topic: topic, log: filepath.Join(t.TempDir(), "acked.log"), ended: make(chan result, 1)}
	l.cmd = l.command(t.Context(), args...)
	var out bytes.Buffer
	l.cmd.Stdout = &out
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := l.cmd.Wait()
		l.ended <- result{out.Bytes(), err}
	}()
	for end := time.Now().Add(2 * time.Minute); ; Wait(t, 5*time.Millisecond) {
		if _, err := os.Stat(l.log); err == nil {
			return l
		}
		if time.Now().After(end) {
			t.Fatal("no load in two minutes")
		}
	}
}

func (l *Load) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, l.exe, append([]string{"survive", "--bootstrap", l.bootstrap, "--topic", l.topic, "--log", l.log}, args...)...)
}

// Stop lets the load send nothing more, before its time is over.
func (l *Load) Stop(t testing.TB) {
	t.Helper()
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("the load ended too early: %v", err)
	}
}

// Check waits for the end of the load and reads everything back: what was acknowledged
// is there once, in order, unchanged. It returns the counts of the producer and of the reader.
func (l *Load) Check(t testing.TB) (produced, read map[string]any) {
	t.Helper()
	produced = parse(t, "produce", <-l.ended)
	out, err := l.command(t.Context(), "--mode", "verify", "--settle", "1s").Output()
	read = parse(t, "verify", result{out, err})
	for _, k := range []string{"lost", "duplicated", "reordered", "corrupted", "moved", "offset_gaps", "acked_offsets_given_twice"} {
		if n, ok := read[k].(float64); !ok || n != 0 {
			t.Errorf("%s: %v: %v", l.topic, k, read)
		}
	}
	if n, ok := read["acked"].(float64); !ok || n == 0 {
		t.Errorf("%s: nothing was acknowledged: %v", l.topic, read)
	}
	return produced, read
}

func parse(t testing.TB, what string, r result) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.out, &v); err != nil || r.err != nil {
		t.Fatalf("%s: %v %v\n%s", what, r.err, err, r.out)
	}
	return v
}

// Ack is an acknowledged record.
type Ack struct {
	Partition int32
	At        time.Time
}

// Acks returns what was acknowledged, in order. The load has ended.
func (l *Load) Acks(t testing.TB) []Ack {
	t.Helper()
	if l.acks == nil {
		l.acks = l.read(t)
	}
	return l.acks
}

func (l *Load) read(t testing.TB) (all []Ack) {
	t.Helper()
	f, err := os.Open(l.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "A ") {
			continue
		}
		var a Ack
		var offset, seq, crc, nanos int64
		if _, err := fmt.Sscanf(lines.Text(), "A %d %d %d %d %d", &a.Partition, &offset, &seq, &crc, &nanos); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		a.At = time.Unix(0, nanos)
		all = append(all, a)
	}
	return all
}

// Gap returns the longest time for which a partition acknowledged nothing, of
// those that ended behind from and began before to, but not long before from: what
// came before it is another one's doing. The load has ended.
func (l *Load) Gap(t testing.TB, from, to time.Time) time.Duration {
	t.Helper()
	last := make(map[int32]time.Time)
	var worst time.Duration
	for _, a := range l.Acks(t) {
		if before, ok := last[a.Partition]; ok && a.At.After(from) && before.After(from.Add(-time.Second)) && before.Before(to) {
			worst = max(worst, a.At.Sub(before))
		}
		last[a.Partition] = a.At
	}
	for _, at := range last {
		if at.Before(to) {
			worst = max(worst, to.Sub(at)) // nothing came any more
		}
	}
	return worst
}

// Wait lets the load run for a while: when harm is done is a test's input.
func Wait(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
