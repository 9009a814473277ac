// Package suites runs other projects' integration tests against the real
// binary: franz-go's from the module cache, rskafka's and kafka-python's as
// .ci/setup-suites installs them. What fails has to be listed in expected.txt.
package suites

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// settings are what the suites expect of a broker.
var settings = []string{
	"num.partitions=4",
	"group.min.session.timeout.ms=1000",
	"group.initial.rebalance.delay.ms=0",
	"message.max.bytes=20971520",
}

// suite is one project's tests.
type suite struct {
	name  string
	needs string // what has to be installed, below .tools/suites; "": nothing
	least int    // tests that have to run: fewer means that the suite itself is broken
	run   func(t *testing.T, r runner) results
}

// runner runs a suite's programs against a broker.
type runner struct {
	broker string // host:port
	tools  string // .tools/suites
}

// TestSuites runs each suite on a broker of its own.
func TestSuites(t *testing.T) {
	expected := readExpected(t, "expected.txt")
	tools := filepath.Join(brokertest.Root(t), ".tools", "suites")
	for _, s := range []suite{
		{name: "franz-go", least: 29, run: franzGo},
		{name: "rskafka", needs: "rskafka.version", least: 58, run: rskafka},
		{name: "kafka-python", needs: "kafka-python.version", least: 55, run: kafkaPython},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if _, err := os.Stat(filepath.Join(tools, s.needs)); s.needs != "" && err != nil {
				missing(t, "the suite of "+s.name+" (run .ci/setup-suites)")
			}
			b := brokertest.Start(t, settings...)
			got := s.run(t, runner{broker: b.Addr, tools: tools})
			got.judge(t, s, expected[s.name])
		})
	}
}

// franzGo runs the tests of franz-go's client that need a broker. Those of KIP-848 and share groups skip themselves where the
// broker has no such APIs.
func franzGo(t *testing.T, r runner) results {
	const tests = `^(TestPing|TestIssue.*|TestConsume.*|TestDirect.*|TestAddRemove.*|TestPause.*|TestPooling|TestGroupSimple|TestGroupETL|TestTxnEtl|TestHookPollStart|TestClient_Produce.*|TestShareGroup.*)$`
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-timeout=8m", "-run", tests, "github.com/twmb/franz-go/pkg/kgo")
	cmd.Env = append(os.Environ(), "KGO_SEEDS="+r.broker, "KGO_TEST_RF=1", "KGO_TEST_RECORDS=20000")
	return parseGoTest(t, output(t, cmd))
}

// rskafka runs the four test programs of the crate one after the other.
func rskafka(t *testing.T, r runner) results {
	all := make(results)
	for _, name := range []string{"client", "consumer", "producer", "produce_consume"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(r.tools, "rskafka", name), "--test-threads", "2")
		cmd.Env = append(os.Environ(), "TEST_INTEGRATION=1", "TEST_BROKER_IMPL=kafka", "KAFKA_CONNECT="+r.broker)
		all.addCargo(name, output(t, cmd))
	}
	return all
}

// kafkaPython runs the integration tests of the sdist, and those that fail once
// more: the client clears its wish for metadata when an answer arrives that was
// asked for before the wish, so whoever subscribes while the first request is
// under way hears of the topic only five minutes later, on any broker.
func kafkaPython(t *testing.T, r runner) results {
	all := pytest(t, r, "test/integration")
	var failed []string
	for name, res := range all {
		if module, test, _ := strings.Cut(name, "::"); res.outcome == "fail" {
			failed = append(failed, "test/integration/"+module+".py::"+test)
		}
	}
	if len(failed) > 0 {
		slices.Sort(failed)
		t.Logf("once more: %v", failed)
		maps.Copy(all, pytest(t, r, failed...))
	}
	return all
}

// pytest runs tests of kafka-python's. Those of TLS start a broker of their
// own, which the sdist does not bring.
func pytest(t *testing.T, r runner, tests ...string) results {
	t.Helper()
	dir, tmp := filepath.Join(r.tools, "kafka-python"), t.TempDir()
	report := filepath.Join(tmp, "report.xml")
	args := []string{"-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", report, "--deselect", "test/integration/test_ssl_integration.py"}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "venv", "bin", "python"), append(args, tests...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KAFKA_URI=kafka://"+r.broker, "KAFKA_VERSION=4.3.0", "KAFKA_ROOT="+tmp)
	out := output(t, cmd)
	xml, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("no report: %v\n%s", err, out)
	}
	return parseJUnit(t, xml)
}

// output runs a suite's command to its end. That it exits with a code other
// than 0 says no more than that a test failed, which its results say too.
func output(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if len(out) == 0 {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.Bytes())
	}
	return out
}

// missing skips on a person's machine; in CI everything has to be there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}
