// Package clients runs real clients against the real binary and writes what
// works into docs/clients.md.
package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/clients/driver"
	"github.com/varvelog/varve/test/internal/brokertest"
)

var update = flag.Bool("update", false, "write docs/clients.md")

const (
	count     = 60       // records a topic
	largeSize = 10 << 20 // of a large record, in bytes
)

// codecs are in the order of their numbers in a batch's attributes.
var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// shared is the topic that franz-go has written in a codec for all to read.
func shared(codec string) string { return "shared-" + codec }

// TestClients runs each client through each feature, and compares the table
// of what came of it with docs/clients.md.
func TestClients(t *testing.T) {
	r := &rig{
		root:   brokertest.Root(t),
		bin:    t.TempDir(),
		broker: brokertest.Start(t, "group.initial.rebalance.delay.ms=0", "message.max.bytes=20971520"),
		table:  newTable(),
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", r.bin+"/", "./...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	for _, codec := range codecs {
		r.create(t, shared(codec), driver.Partitions)
		if _, ok := r.run(t, clients[0], "produce", shared(codec), codec, itoa(count)); !ok {
			t.Fatalf("%s does not write %s", clients[0].name, codec)
		}
	}
	t.Run("table", func(t *testing.T) {
		for _, c := range clients {
			t.Run(c.name, func(t *testing.T) { r.client(t, c) })
		}
	})
	if !t.Failed() {
		r.table.compare(t, filepath.Join(r.root, "docs", "clients.md"))
	}
}

// rig is what all cells of the table share.
type rig struct {
	root   string // the checkout
	bin    string // folder of the programs written in Go
	broker *brokertest.Broker
	table  *table
}

// client runs one column of the table.
func (r *rig) client(t *testing.T, c client) {
	if what := r.missing(c); what != "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("missing: %s", what)
		}
		t.Skipf("missing: %s", what)
	}
	for _, f := range features {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			cell := f.run(t, r, c)
			if !t.Failed() {
				r.table.set(f.name, c.name, cell)
			}
		})
	}
}

// run runs a client program and returns what it printed, or false when the
// client has no such feature.
func (r *rig) run(t *testing.T, c client, args ...string) ([]byte, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	command := append(c.command(r, c.program), r.broker.Addr)
	cmd := exec.CommandContext(ctx, command[0], append(command[1:], args...)...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+r.tools("kafkajs/node_modules"), "KAFKAJS_NO_PARTITIONER_WARNING=1",
		"JDK_JAVA_OPTIONS=-Djava.io.tmpdir="+t.TempDir()) // snappy-java clears away what others have unpacked
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == driver.Unsupported {
		return nil, false
	}
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", c.name, args, err, lastLines(stderr.String()))
	}
	return out, true
}

func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// records decodes what a program printed, keeping its order within partitions.
func records(t *testing.T, printed []byte) []driver.Record {
	t.Helper()
	var all []driver.Record
	for d := json.NewDecoder(bytes.NewReader(printed)); d.More(); {
		var r driver.Record
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return byPartition(all)
}

func byPartition(all []driver.Record) []driver.Record {
	slices.SortStableFunc(all, func(a, b driver.Record) int { return int(a.Partition - b.Partition) })
	return all
}

// made returns the records that every topic holds.
func made() []driver.Record {
	var all []driver.Record
	for i := range count {
		all = append(all, driver.Make(i))
	}
	return byPartition(all)
}

// same fails the test unless exactly these records came, in order in each partition.
func same(t *testing.T, got, want []driver.Record) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("other records (-want +got):\n%s", diff)
	}
}

func (r *rig) open(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(r.broker.Addr), kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// create creates a topic that keeps its records, whose timestamps are years ago.
func (r *rig) create(t *testing.T, topic string, partitions int32) {
	t.Helper()
	keep := map[string]*string{"retention.ms": kadm.StringPtr("-1")}
	if _, err := kadm.NewClient(r.open(t)).CreateTopic(t.Context(), partitions, 1, keep, topic); err != nil {
		t.Fatal(err)
	}
}

// read reads n records of a topic with franz-go, in each partition in order.
func (r *rig) read(t *testing.T, topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl := r.open(t, append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	var all []*kgo.Record
	for len(all) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read back %d of %d records: %v", len(all), n, err)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

// table is what came of each feature with each client.
type table struct {
	mu    sync.Mutex
	cells map[string]map[string]string // feature → client → yes, or what the client lacks
}

func newTable() *table { return &table{cells: make(map[string]map[string]string)} }

func (tab *table) set(feature, client, cell string) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if tab.cells[feature] == nil {
		tab.cells[feature] = make(map[string]string)
	}
	tab.cells[feature][client] = cell
}

const head = `# Clients

Real clients against the real binary: this table is written by the test that runs them
(` + "`go -C test test ./clients -update`" + `), and ` + "`make test`" + ` fails where it is no longer true.

- What a client *produces* is read back by franz-go and compared record for record: partition, offset, key (null ones too), value
  (null ones too), headers, timestamp, and that the batch is in the codec asked for. What a client *consumes* was written by franz-go.
- *Groups*: a second member joins and leaves, and the partitions are spread anew each time. *Commits* are looked up in the broker afterwards.
  A *large message* has 10 MiB. *Idempotence* is seen in the batches: they carry a producer id.
- *Transactions*: one is aborted, one committed with a group's offsets, one aborted that would have committed others. As read_committed the
  client and franz-go read what the second wrote and nothing else, as read_uncommitted all is there, and the group's offsets are the second's.
- *client: no* is a feature that the client does not have.

`

// compare compares the whole table with the file, or writes it. A table with
// cells that were not run is not compared.
func (tab *table) compare(t *testing.T, path string) {
	t.Helper()
	var out strings.Builder
	out.WriteString(head)
	row := func(name string, cell func(client) string) {
		out.WriteString("| " + name)
		for _, c := range clients {
			out.WriteString(" | " + cell(c))
		}
		out.WriteString(" |\n")
	}
	row("", func(c client) string { return c.name })
	row("---", func(client) string { return "---" })
	for _, f := range features {
		for _, c := range clients {
			if tab.cells[f.name][c.name] == "" {
				t.Logf("not compared with %s: %s with %s was not run", filepath.Base(path), f.name, c.name)
				return
			}
		}
		row(f.name, func(c client) string { return tab.cells[f.name][c.name] })
	}
	for _, c := range clients {
		if c.note != "" {
			out.WriteString("\n" + c.name + ": " + c.note + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s is not what was seen (-file +seen; -update writes it):\n%s", filepath.Base(path), diff)
	}
}
