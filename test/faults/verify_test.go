package faults

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestVerify takes a segment away, and changes one, and has `varve verify` say
// so. That it finds nothing else every test of a broker ends with.
func TestVerify(t *testing.T) {
	b := brokertest.Start(t, "log.segment.bytes=1048576")
	p := dial(t, b.Addr)
	p.create("t", 1)
	value := make([]byte, 512<<10)
	var segments []string
	eventually(t, "sealed segments", func() bool {
		if res := p.produce("t", 0, batch(t, value)); res.ErrorCode != 0 {
			t.Fatalf("produce: error %d", res.ErrorCode)
		}
		segments, _ = filepath.Glob(filepath.Join(b.Data, "objects", "seg", "*", "*", "*"))
		return len(segments) > 1 // so the first has its entry
	})
	segment := segments[0]
	whole, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	harm := func(kind string, do func() error) {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		err := b.Verify()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(err.Error(), kind+": t-0 at 0") {
			t.Errorf("verify: %v", err)
		}
		if err := os.WriteFile(segment, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	harm("missing", func() error { return os.Remove(segment) })
	harm("corrupt", func() error {
		bad := append([]byte(nil), whole...)
		bad[len(bad)/2] ^= 1
		return os.WriteFile(segment, bad, 0o644)
	})
}
