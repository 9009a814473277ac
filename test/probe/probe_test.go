package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// settings are those that the golden file was made with.
var settings = []string{
	"num.partitions=4",
	"group.min.session.timeout.ms=6000",
	"group.initial.rebalance.delay.ms=0",
}

// TestProbe compares what the broker answers with what Apache Kafka answered,
// line by line. A line that differs must stand in differences.txt, with what
// the broker answers and the reason; one that stands there must differ.
func TestProbe(t *testing.T) {
	b := brokertest.Start(t, settings...)
	exe := filepath.Join(t.TempDir(), "probe")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), exe, b.Addr)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("probe: %v\n%s", err, stderr.String())
	}
	if path := os.Getenv("PROBE_OUT"); path != "" {
		if err := os.WriteFile(path, stdout.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile("apache-kafka-4.3.1.txt")
	if err != nil {
		t.Fatal(err)
	}
	want, got := lines(string(golden)), lines(stdout.String())
	differences := readDifferences(t)
	behind := 0
	for i, w := range want {
		g := "(no line)"
		if i < len(got) {
			g = got[i]
		}
		d, listed := differences[name(w, i)]
		switch {
		case g == w && listed:
			t.Errorf("line %d equals Apache Kafka's and still stands in differences.txt: %s", i+1, w)
		case i+1 >= notYet:
			behind += differs(g, w)
		case g != w && !listed:
			t.Errorf("line %d\nApache Kafka: %s\nthis broker:  %s", i+1, w, g)
		case g != w && g != d:
			t.Errorf("line %d\nApache Kafka: %s\nthis broker:  %s\nlisted:       %s", i+1, w, g, d)
		}
	}
	if behind == 0 {
		t.Errorf("all lines from %d on equal Apache Kafka's: notYet is out of date", notYet)
	}
	t.Logf("%d lines compared, %d of them listed as different; %d of the %d from line %d on differ (not built yet)", notYet-1, len(differences), behind, len(want)-notYet+1, notYet)
}

// notYet is the line from which on the probe asks for the new consumer group
// protocol (KIP-848), which the broker does not have yet.
const notYet = 176

func differs(a, b string) int {
	if a == b {
		return 0
	}
	return 1
}

// What changes from run to run: clocks, ports, the run's topic prefix.
var volatile = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b(pt|cg|col[._]|g|s)?\d{9}\b`), "${1}RUN"},
	{regexp.MustCompile(`\bpt\d{9}`), "ptRUN"},
	{regexp.MustCompile(`\b1\d{12}\b`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDR"},
	{regexp.MustCompile(`Member [A-Za-z0-9_-]{22} `), "Member ID "},
	{regexp.MustCompile(`(data ts=-3 +NONE off=)\d+`), "${1}N"},                                   // the first of the latest millisecond
	{regexp.MustCompile(`(ApiVersions v3 same conn after +err=<nil> len=)\d+ head=\w+`), "${1}N"}, // how many APIs there are
	{regexp.MustCompile(`(DeleteGroups [gs])\d`), "${1}"},                                         // a digit of the run's prefix
}

func lines(s string) []string {
	for _, v := range volatile {
		s = v.re.ReplaceAllString(s, v.with)
	}
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range all[1:] { // the answer's order of the two groups is a map's
		if strings.HasPrefix(all[i], "DeleteGroups s ") && strings.HasPrefix(all[i+1], "DeleteGroups g ") {
			all[i], all[i+1] = all[i+1], all[i]
		}
	}
	return all
}

// name returns a line's place: its number and its label.
func name(line string, i int) string {
	return fmt.Sprintf("%d %s", i+1, strings.TrimSpace(line[:min(46, len(line))]))
}

// readDifferences reads differences.txt: for each a line "# reason", a line
// "<number> <label>" and a line with what this broker prints.
func readDifferences(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	var at string
	for _, l := range strings.Split(string(data), "\n") {
		switch {
		case strings.HasPrefix(l, "#"), strings.TrimSpace(l) == "":
			at = ""
		case at == "":
			at = l
		default:
			all[at] = l
			at = ""
		}
	}
	return all
}
