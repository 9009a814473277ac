// Package cli uses the real binary's commands as a person and a script do:
// good input and bad, what they print, exit codes, a terminal.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// shell runs commands of the binary against a broker.
type shell struct {
	t testing.TB
	b *brokertest.Broker
}

// result is what a command has left behind.
type result struct {
	out, err string
	code     int
}

// try runs a command. Those that ask a broker, or look at its data, find it.
func (s shell) try(stdin string, args ...string) (r result) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, brokertest.Binary(s.t), s.placed(args)...)
	cmd.Dir = s.t.TempDir()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		s.t.Fatalf("varve %v: %v\n%s%s", args, err, &out, &errs)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// placed adds where the broker is.
func (s shell) placed(args []string) []string {
	if s.b == nil {
		return args
	}
	switch args[0] {
	case "topic", "produce", "consume", "group", "bench":
		return append(args, "--bootstrap", s.b.Addr)
	case "segment", "verify", "replay", "cluster":
		return append(args, "--data", s.b.Data)
	}
	return args
}

// run runs a command that succeeds, and returns what it printed.
func (s shell) run(stdin string, args ...string) string {
	s.t.Helper()
	r := s.try(stdin, args...)
	if r.code != 0 {
		s.t.Fatalf("varve %v: exit code %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

func TestRecords(t *testing.T) {
	s := shell{t, brokertest.Start(t, "group.initial.rebalance.delay.ms=0")}
	s.run("", "topic", "create", "r", "--partitions", "1")
	if got := s.run("a=1\nb=x=y\nc=-\n", "produce", "r", "--key-separator", "=", "--null-marker", "-", "--header", "h=1", "--header", "h=2", "--header", "g="); got != "3 records acknowledged\n" {
		t.Errorf("produce: %q", got)
	}
	const format = `%T %p %o %k %v [%h]\n`
	want := "r 0 0 a 1 [h=1,h=2,g=]\nr 0 1 b x=y [h=1,h=2,g=]\nr 0 2 c  [h=1,h=2,g=]\n"
	if diff := cmp.Diff(want, s.run("", "consume", "r", "--exit", "--format", format)); diff != "" {
		t.Errorf("consume (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, s.run("", "replay", "--topic", "r", "--format", format)); diff != "" {
		t.Errorf("replay (-want +got):\n%s", diff)
	}
	file := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(file, []byte("\xff\x00<&>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("", "produce", "r", file, "--whole-files", "--compression", "zstd")
	type header struct{ Key, Value string }
	var last, deleted struct {
		Offset      int
		Key         *string
		Value       *string
		ValueBase64 []byte `json:"value_base64"`
		Headers     []header
	}
	lines := strings.Split(s.run("", "consume", "r", "--exit", "--json", "--from", "2"), "\n")
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &deleted), json.Unmarshal([]byte(lines[1]), &last)); err != nil {
		t.Fatal(err)
	}
	if last.Value != nil || string(last.ValueBase64) != "\xff\x00<&>\n" || last.Key == nil || *last.Key != file {
		t.Errorf("a binary value as JSON: %s", lines[1])
	}
	if deleted.Value != nil || deleted.ValueBase64 != nil || !cmp.Equal(deleted.Headers, []header{{"h", "1"}, {"h", "2"}, {"g", ""}}) {
		t.Errorf("a tombstone with headers as JSON: %s", lines[0])
	}
}

// TestExit reads up to the end from places where there is nothing to read: it
// ends all the same.
func TestExit(t *testing.T) {
	s := shell{t, brokertest.Start(t, "group.initial.rebalance.delay.ms=0")}
	s.run("", "topic", "create", "e", "empty", "--partitions", "3")
	s.run("1\n2\n3\n4\n", "produce", "e", "--partitioner", "round-robin")
	for args, want := range map[string]int{
		"consume e --exit":                                4,
		"consume e empty --exit":                          4,
		"consume e --exit --from end":                     0,
		"consume e --exit --from 1000":                    0,
		"consume e --exit --from 2100-01-01T00:00:00Z":    0,
		"consume e --exit --from 1h":                      4,
		"consume e --exit --read-committed":               4,
		"consume e --exit --partition 0 --from end":       0,
		"consume empty --exit":                            0,
		"consume empty --exit --group nobody":             0,
		"consume e --count 2":                             2,
		"replay --topic e --from end":                     0,
		"replay --topic empty":                            0,
		"replay --topic e --from 2100-01-01T00:00:00Z":    0,
		"consume e --exit --group g":                      4,
		"consume e --exit --group other --from beginning": 4,
	} {
		if got := strings.Count(s.run("", strings.Fields(args)...), "\n"); got != want {
			t.Errorf("varve %s: %d records, not %d", args, got, want)
		}
	}
	if got := s.run("", "consume", "e", "--exit", "--group", "g"); got != "" {
		t.Errorf("a group at the end reads %q", got)
	}
}

// TestExitWhereNothingIsLeft reads to an end before which compaction has left no records.
func TestExitWhereNothingIsLeft(t *testing.T) {
	s := shell{t, brokertest.Start(t, "log.cleaner.backoff.ms=100", "log.retention.check.interval.ms=500")}
	s.run("", "topic", "create", "h", "--partitions", "1", "--config", "segment.ms=1000")
	s.run("1\n2\n3\n", "produce", "h")
	s.run("", "topic", "alter", "h", "--config", "cleanup.policy=compact", "--config", "min.cleanable.dirty.ratio=0") // they have no keys
	for s.run("", "replay", "--topic", "h") != "" {
		time.Sleep(100 * time.Millisecond) // until they are gone; the test's own time is the bound
	}
	for _, args := range []string{"consume h --exit", "consume h --exit --group g", "consume h --exit --from 1 --read-committed"} {
		if got := s.run("", strings.Fields(args)...); got != "" {
			t.Errorf("varve %s: %q", args, got)
		}
	}
	if got := s.run("", "bench", "consume", "--topic", "h", "--duration", "50s"); !strings.HasPrefix(got, "0 records in ") {
		t.Errorf("bench consume: %q", got)
	}
}

// TestLargest produces much into a topic that takes small batches only. What alone is too
// large is named, and what is not once it is compressed goes through, in its place.
func TestLargest(t *testing.T) {
	b := brokertest.Start(t)
	s := shell{t, b}
	const limit = "max.message.bytes=20000"
	s.run("", "topic", "create", "l", "copy", "--partitions", "1", "--config", limit)
	lines := strings.Repeat(strings.Repeat("x", 99)+"\n", 5000)
	s.run(lines, "produce", "l")
	large := strings.Repeat("y", 100_000) + "\n"
	s.run("before\n"+large+"behind\n", "produce", "l", "--compression", "zstd")
	if got := s.run("", "consume", "l", "--exit"); got != lines+"before\n"+large+"behind\n" {
		t.Errorf("%d bytes are there", len(got))
	}
	s.run("", "replay", "--topic", "l", "--into", b.Addr, "--into-topic", "copy")
	if got := s.run("", "consume", "copy", "--exit"); got != lines+"before\n"+large+"behind\n" {
		t.Errorf("%d bytes are copied", len(got))
	}
	if r := s.try(large, "produce", "l"); r.code != 1 || !strings.Contains(r.err, "100000 bytes") || !strings.Contains(r.err, "20000") {
		t.Errorf("too large: exit code %d, %s", r.code, r.err)
	}
	s.run(lines, "produce", "made") // on demand
}

// TestRefused says wrong things: each fails, with a word about what is wrong.
func TestRefused(t *testing.T) {
	b := brokertest.Start(t)
	s := shell{t, b}
	s.run("", "topic", "create", "here")
	for args, want := range map[string]string{
		"nope":                                        `unknown command "nope"`,
		"topic creat x":                               `unknown command "creat" for "varve topic"`,
		"segment lst":                                 `unknown command "lst"`,
		"topic list x":                                "unknown command",
		"topic create here":                           "TOPIC_ALREADY_EXISTS",
		"topic create a/b":                            "INVALID_TOPIC_EXCEPTION",
		"topic create n --config nope=1":              "Unknown topic config name: nope",
		"topic create n --config retention.ms=x":      "retention.ms",
		"topic create n --config retention.ms":        "key=value",
		"topic create n --partitions 0":               "INVALID_PARTITIONS",
		"topic create n --replication-factor 9":       "INVALID_REPLICATION_FACTOR",
		"topic describe nope":                         "UNKNOWN_TOPIC_OR_PARTITION",
		"topic delete nope":                           "UNKNOWN_TOPIC_OR_PARTITION",
		"topic alter here":                            "nothing to alter",
		"topic alter here --partitions 1":             "partition",
		"produce here --acks 2":                       "--acks",
		"produce here --compression brotli":           "--compression",
		"produce here --partitioner x":                "--partitioner",
		"produce here --partition 7":                  "partition",
		"produce here --header x":                     "--header",
		"produce here nofile":                         "nofile",
		"consume nope --exit":                         "UNKNOWN_TOPIC_OR_PARTITION",
		"consume here --from yesterday":               "--from",
		"consume here --format %z":                    "--format",
		"consume here --group g --partition 0":        "exclude",
		"group describe nope":                         "nope",
		"group delete nope":                           "GROUP_ID_NOT_FOUND",
		"group reset-offsets g":                       "--topic",
		"group reset-offsets g --topic nope":          "UNKNOWN_TOPIC_OR_PARTITION",
		"group reset-offsets g --topic here --to x":   "--to",
		"segment dump nope":                           "nope",
		"segment list nope":                           "nope",
		"verify nope":                                 "nope",
		"replay":                                      "topic",
		"replay --topic nope":                         "nope",
		"replay --topic here --parquet":               "--output",
		"replay --topic here --from 1000":             "out of range",
		"cluster move here/9 1":                       "no partition",
		"cluster drain x":                             "broker id",
		"broker --config nope=1":                      "Unknown broker config name: nope",
		"broker --config num.partitions=x":            "num.partitions",
		"broker --config listeners=PLAINTEXT://:9092": "--listen",
		"broker --config node.id=3 --id 4":            "node.id",
		"broker --config node.id=x":                   "node.id",
		"broker --log-level loud":                     "--log-level",
		"broker --listen nowhere":                     "listen",
		"cost --rate much":                            "--rate",
		"cost --retention long":                       "--retention",
		"bench e2e --rate 0":                          "--rate",
		"dev --brokers 0":                             "--brokers",
	} {
		r := s.try("1\n", strings.Fields(args)...)
		if r.code != 1 || !strings.Contains(r.err, want) || strings.Contains(r.err, "panic") {
			t.Errorf("varve %s: exit code %d, not %q\n%s%s", args, r.code, want, r.out, r.err)
		}
	}
	r := shell{t: t}.try("", "topic", "list", "--bootstrap", "127.0.0.1:1")
	if r.code != 1 || !strings.Contains(r.err, "is `varve broker` running?") {
		t.Errorf("without a broker: exit code %d\n%s", r.code, r.err)
	}
}

// TestJSON asks for JSON everywhere.
func TestJSON(t *testing.T) {
	s := shell{t, brokertest.Start(t)}
	for _, args := range []string{
		"topic create j --partitions 2", "topic list", "topic describe j --all-configs", "topic alter j --config retention.ms=-1 --partitions 3",
		"produce j", "consume j --count 1", "consume j --exit --group g", "group list", "group describe g", "group reset-offsets g --topic j --dry-run",
		"segment list", "segment verify --quick", "verify", "replay --topic j --output files", "cluster status", "cluster move j/0 1", "cluster move j/0 --undo",
		"cluster drain 7", "cluster drain 7 --undo", "cluster upgrade --dry-run", "cost", "cost --metrics " + s.b.HTTP, "broker --list-settings",
		"bench produce --duration 100ms", "bench consume --duration 100ms", "bench e2e --duration 200ms", "group delete g", "topic delete j",
	} {
		out := s.run("1\n", append(strings.Fields(args), "--json")...)
		var v any
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Errorf("varve %s --json: %v\n%s", args, err, out)
		}
	}
}

func TestHelp(t *testing.T) {
	s := shell{t: t}
	for _, c := range []string{"broker", "dev", "topic", "group", "produce", "consume", "replay", "segment", "verify", "cost", "cluster", "catalog", "bench"} {
		if out := s.run("", c, "--help"); !strings.Contains(out, "Usage:") {
			t.Errorf("varve %s --help:\n%s", c, out)
		}
	}
	for _, sh := range []string{"bash", "zsh", "fish"} {
		if out := s.run("", "completion", sh); len(out) < 1000 {
			t.Errorf("varve completion %s: %q", sh, out)
		}
	}
	if out := s.run("", "__complete", "topic", "d"); !strings.Contains(out, "describe") || !strings.Contains(out, "delete") {
		t.Errorf("what completes `varve topic d`: %q", out)
	}
}
