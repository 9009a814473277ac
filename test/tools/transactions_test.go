package tools

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestTransactionTool finds a transaction that a producer has left open with
// kafka-transactions, and aborts it, as an operator does.
func TestTransactionTool(t *testing.T) {
	root := brokertest.Root(t)
	home := filepath.Join(root, ".tools", "kafka-peer")
	if _, err := os.Stat(filepath.Join(home, "libs")); err != nil {
		missing(t, "Apache Kafka's jars (run .ci/setup-kafka)")
	}
	b := brokertest.Start(t, "auto.create.topics.enable=true")
	tool := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(root, "bench", "kafka-peer.sh"), append([]string{"transactions", "--bootstrap-server", b.Addr}, args...)...)
		cmd.Env = append(os.Environ(), "KAFKA_PEER_HOME="+home)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "Exception") {
			t.Fatalf("transactions %v: %v\n%s", args, err, out)
		}
		return strings.Join(strings.Fields(string(out)), " ")
	}
	has := func(out string, wants ...string) {
		t.Helper()
		for _, w := range wants {
			if !regexp.MustCompile(w).MatchString(out) {
				t.Errorf("no %q in: %s", w, out)
			}
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.TransactionalID("left-open"), kgo.DefaultProduceTopic("txn"), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	write := func() {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	write() // and nobody ends it
	has(tool("list"), "left-open .*Ongoing")
	has(tool("describe", "--transactional-id", "left-open"), "Ongoing", "txn-0")
	has(tool("describe-producers", "--topic", "txn", "--partition", "0"), " 2$") // where it begins: behind a record and a marker
	tool("abort", "--topic", "txn", "--partition", "0", "--start-offset", "2")
	stable, err := kadm.NewClient(cl).ListCommittedOffsets(t.Context(), "txn")
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := stable.Lookup("txn", 0); !ok || o.Offset != 4 {
		t.Errorf("last stable offset %+v, want 4, behind the marker", o)
	}
}
