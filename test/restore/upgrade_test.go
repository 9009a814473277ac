package restore

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/test/internal/load"
)

// previous returns the binary that VARVE_PREVIOUS names, or builds the one of the commit that it
// names, or of the commit before this one. Where the history is not there the test is skipped.
func previous(t *testing.T) string {
	t.Helper()
	commit, root, dir := os.Getenv("VARVE_PREVIOUS"), brokertest.Root(t), t.TempDir()
	if filepath.IsAbs(commit) {
		return commit
	}
	if commit == "" {
		commit = "HEAD~1"
	}
	if err := exec.CommandContext(t.Context(), "git", "-C", root, "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Skipf("commit %s is not in this clone: a shallow one?", commit)
	}
	script := `git -C "$1" archive "$2" cmd internal tiering engine clients go.mod go.sum | tar -x -C "$3" && cd "$3" && CGO_ENABLED=0 go build -trimpath -o varve ./cmd/varve`
	if out, err := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", script, "bash", root, commit, dir).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return filepath.Join(dir, "varve")
}

// upgradable is what `varve cluster upgrade --json` prints.
type upgradable struct {
	Level  int   `json:"level"`
	To     int   `json:"to"`
	Raised bool  `json:"raised"`
	Behind []int `json:"behind"`
}

func (s site) upgrade(t *testing.T, args ...string) (st upgradable, err error) {
	t.Helper()
	out, err := s.varve(t, append([]string{"cluster", "upgrade", "--json"}, args...)...)
	if jerr := json.Unmarshal([]byte(out), &st); jerr != nil && err == nil {
		t.Fatalf("%v: %s", jerr, out)
	}
	return st, err
}

// TestUpgrade replaces the program of one broker after the other under load: the
// previous commit's by this one's, back again, and forth again; then it raises the
// feature level. Nothing that was acknowledged is lost, reordered or twice there.
func TestUpgrade(t *testing.T) { upgraded(t, onFiles(t)) }

// TestUpgradeAWS is TestUpgrade on S3 and DynamoDB.
func TestUpgradeAWS(t *testing.T) { upgraded(t, onAWS(t)) }

func upgraded(t *testing.T, s site) {
	t.Helper()
	before := previous(t)
	all, addrs := s.start(t, before, "wal.checkpoint.objects=64", "log.segment.bytes=1048576")
	l := load.Start(t, load.Build(t), addrs, "upgraded", "--timeout", "1h", "--seconds", "3000", "--partitions", "12", "--keys", "1000", "--rate", "2000", "--batch", "65536", "--request-timeout", "2s")
	begun, err := s.upgrade(t, "--dry-run")
	differ := begun.To > begun.Level
	if differ != (len(begun.Behind) == brokers) || differ != (err != nil) {
		t.Errorf("before: %+v, %v", begun, err)
	}
	roll := func(what, bin string, each func(i int)) {
		t.Helper()
		for i, b := range all {
			if code := b.Stop(t); code != 0 {
				t.Errorf("%s: broker %d: exit code %d", what, i+1, code)
			}
			b.Use(bin)
			b.Restart(t)
			load.Wait(t, time.Second)
			each(i)
		}
	}
	roll("upgrade", s.bin, func(i int) {
		if !differ || i == brokers-1 {
			return
		}
		st, err := s.upgrade(t) // some are too old: it says which
		if err == nil || st.Raised || !strings.Contains(err.Error(), "broker "+strconv.Itoa(brokers)) {
			t.Errorf("raised with old brokers: %+v, %v", st, err)
		}
	})
	if st, err := s.upgrade(t, "--dry-run"); err != nil || len(st.Behind) > 0 || st.Raised || st.Level != begun.Level {
		t.Errorf("after the upgrade: %+v, %v", st, err)
	}
	roll("downgrade", before, func(int) {})
	roll("upgrade again", s.bin, func(int) {})
	st, err := s.upgrade(t)
	if err != nil || st.Raised != differ {
		t.Fatalf("raise: %+v, %v", st, err)
	}
	if again, err := s.upgrade(t); err != nil || again.Raised || again.Level != st.To {
		t.Errorf("once more: %+v, %v", again, err)
	}
	if differ {
		last := all[brokers-1]
		last.Stop(t)
		last.Use(before)
		if says, err := last.TryRestart(t.Context()); err == nil || !strings.Contains(says, "feature level") {
			t.Errorf("the old program starts on a raised cluster: %v\n%s", err, says)
		}
		last.Use(s.bin)
		last.Restart(t)
	}
	l.Stop(t)
	produced, read := l.Check(t)
	t.Logf("level %d to %d; %v acknowledged, %v read; %v", begun.Level, st.To, read["acked"], read["read"], produced)
}
