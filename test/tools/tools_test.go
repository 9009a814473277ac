// Package tools runs Apache Kafka's own command-line tools (the Java client)
// and kcat (librdkafka) against the real binary.
package tools

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestJavaTools goes through an operator's day with Kafka's tools.
func TestJavaTools(t *testing.T) {
	root := brokertest.Root(t)
	home := filepath.Join(root, ".tools", "kafka-peer")
	if _, err := os.Stat(filepath.Join(home, "libs")); err != nil {
		missing(t, "Apache Kafka's jars (run .ci/setup-kafka)")
	}
	b := brokertest.Start(t, "group.initial.rebalance.delay.ms=0")
	tool := func(stdin, name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(root, "bench", "kafka-peer.sh"), append([]string{name, "--bootstrap-server", b.Addr}, args...)...)
		cmd.Env = append(os.Environ(), "KAFKA_PEER_HOME="+home)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("Exception")) {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	has := func(out string, wants ...string) {
		t.Helper()
		for _, w := range wants {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), w) {
				t.Errorf("no %q in:\n%s", w, out)
			}
		}
	}
	var lines []string
	for i := range 500 {
		lines = append(lines, fmt.Sprintf("record %03d", i))
	}
	has(tool("", "topics", "--create", "--topic", "j", "--partitions", "3"), "Created topic j.")
	has(tool("", "topics", "--describe", "--topic", "j"), "PartitionCount: 3", "Leader: 1")
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		tool(strings.Join(lines, "\n")+"\n", "console-producer", "--topic", "j", "--compression-codec", codec)
	}
	out := tool("", "console-consumer", "--topic", "j", "--group", "jg", "--from-beginning", "--max-messages", "2500")
	got := slices.DeleteFunc(strings.Split(out, "\n"), func(l string) bool { return !strings.HasPrefix(l, "record ") })
	want := slices.Concat(lines, lines, lines, lines, lines)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d records read, %d written, or other ones", len(got), len(want))
	}
	has(tool("", "groups", "--describe", "--group", "jg"), "CURRENT-OFFSET", "jg j 0")
	has(tool("", "groups", "--list", "--state"), "jg Empty")
	has(tool("", "groups", "--reset-offsets", "--group", "jg", "--topic", "j", "--to-earliest", "--execute"), "jg j 0 0")
	tool("", "configs", "--alter", "--entity-type", "topics", "--entity-name", "j", "--add-config", "retention.ms=3600000")
	has(tool("", "configs", "--describe", "--entity-type", "topics", "--entity-name", "j"), "retention.ms=3600000")
	has(tool("", "topics", "--alter", "--topic", "j", "--partitions", "4"), "")
	has(tool("", "topics", "--describe", "--topic", "j"), "PartitionCount: 4")
	has(tool("", "offsets", "--topic", "j"), "j:3:0")
	has(tool("", "log-dirs", "--describe", "--topic-list", "j"), `"broker":1`)
	below := filepath.Join(t.TempDir(), "below.json")
	if err := os.WriteFile(below, []byte(`{"version": 1, "partitions": [{"topic": "j", "partition": 0, "offset": -1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	has(tool("", "delete-records", "--offset-json-file", below), "partition: j-0 low_watermark:")
	has(tool("", "quorum", "describe", "--status"), "LeaderId: 1")
	has(tool("", "features", "describe"), "Feature: varve.level")
	has(tool("", "api-versions"), "ListPartitionReassignments(46): 0")
	has(tool("", "reassign", "--list"), "No partition reassignments found.")
	has(tool("", "groups", "--delete", "--group", "jg"), "was successful")
	has(tool("", "features", "describe"), "Feature: varve.level")
	has(tool("", "features", "upgrade", "--feature", "varve.level=3"), "varve.level was upgraded to 3")
	tool("", "topics", "--delete", "--topic", "j")
	if out := tool("", "topics", "--list"); strings.TrimSpace(out) != "__consumer_offsets" {
		t.Errorf("topics left: %s", out)
	}
}

// TestKcat writes with librdkafka in each codec, and reads alone and in a group.
func TestKcat(t *testing.T) {
	if _, err := exec.LookPath("kcat"); err != nil {
		missing(t, "kcat")
	}
	b := brokertest.Start(t, "group.initial.rebalance.delay.ms=0")
	kcat := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "kcat", append([]string{"-b", b.Addr, "-q"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kcat %v: %v\n%s", args, err, stderr.String())
		}
		return string(out)
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		var want strings.Builder
		for i := range 300 {
			fmt.Fprintf(&want, "key %d:value %d %s\n", i, i, strings.Repeat("x", i))
		}
		topic := "k-" + codec
		kcat(want.String(), "-P", "-t", topic, "-K", ":", "-z", codec, "-X", "enable.idempotence=true", "-H", "h=1")
		if got := kcat("", "-C", "-t", topic, "-e", "-o", "beginning", "-f", "%k:%s\n"); got != want.String() {
			t.Errorf("%s: other records came back", codec)
		}
		if got := kcat("", "-C", "-t", topic, "-c", "1", "-o", "-1", "-f", "%o %h"); got != "299 h=1" {
			t.Errorf("%s: the last record is %q", codec, got)
		}
		if got := kcat("", "-X", "auto.offset.reset=earliest", "-G", "g-"+codec, "-c", "300", "-f", "%k:%s\n", topic); got != want.String() {
			t.Errorf("%s: a group read other records", codec)
		}
	}
	if out := kcat("", "-L"); !strings.Contains(out, `topic "k-zstd"`) {
		t.Errorf("metadata:\n%s", out)
	}
}

// missing skips on a person's machine; in CI everything has to be there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}
