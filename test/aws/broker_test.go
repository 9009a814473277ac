package aws

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/internal/price"
	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/brokertest"
)

const (
	topic      = "orders"
	partitions = 4
	records    = 3000
	payload    = 2 << 10 // bytes of a record, so that a segment is sealed
)

// testBroker has the real binary on a bucket and a table: it is killed under
// load, loses its disk, and comes back with all that it acknowledged.
func testBroker(t *testing.T, s3, dynamodb string) {
	place := []string{"--bucket", awstest.Name("bucket"), "--table", awstest.Name("table"), "--prefix", "test/one"}
	env := awstest.Environ(s3, dynamodb)
	b := brokertest.StartWith(t, brokertest.Options{
		Args: append(slices.Clone(place), "--create", "--id", "1"), Env: env,
		Settings: []string{"wal.checkpoint.objects=8", "log.segment.bytes=1048576"},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := newClient(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond))
	if _, err := kadm.NewClient(client).CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if i == records/2 { // many are in flight
			b.Kill()
			if err := os.RemoveAll(b.Data); err != nil {
				t.Fatal(err)
			}
			b.Restart(t)
		}
		client.Produce(ctx, record(i), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	b.Kill() // and nothing of its shutdown is needed
	b.Restart(t)
	readAll(ctx, t, b)
	checkMetrics(ctx, t, b)
	varve(t, env, "hello\n", "produce", "greetings", "--bootstrap", b.Addr)
	if out := varve(t, env, "", "consume", "greetings", "--exit", "--bootstrap", b.Addr); !strings.Contains(out, "hello") {
		t.Errorf("consume printed %q", out)
	}
	if code := b.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	checkSegments(t, env, place)
}

func newClient(t *testing.T, b *brokertest.Broker, o ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(o, kgo.SeedBrokers(b.Addr), kgo.MetadataMinAge(100*time.Millisecond), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func record(i int) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: int32(i % partitions), Key: strconv.AppendInt(nil, int64(i), 10), Value: bytes.Repeat([]byte{byte(i)}, payload)}
}

// readAll reads the topic from its start: every record is there once,
// unchanged, in the order of its partition.
func readAll(ctx context.Context, t *testing.T, b *brokertest.Broker) {
	t.Helper()
	client := newClient(t, b, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	next := [partitions]int{}
	for seen := 0; seen < records; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("after %d records: %v", seen, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			p := r.Partition
			want := record(next[p]*partitions + int(p))
			if r.Offset != int64(next[p]) || !bytes.Equal(r.Key, want.Key) || !bytes.Equal(r.Value, want.Value) {
				t.Fatalf("partition %d has record %s at offset %d, want %s", p, r.Key, r.Offset, want.Key)
			}
			next[p]++
			seen++
		})
	}
}

// checkMetrics: what AWS bills is counted.
func checkMetrics(ctx context.Context, t *testing.T, b *brokertest.Broker) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.HTTP+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		`varve_s3_requests_total{request="PUT",result="ok"}`, `varve_s3_requests_total{request="GET",result="ok"}`, `varve_s3_requests_total{request="LIST",result="ok"}`,
		`varve_dynamodb_requests_total{operation="TransactWriteItems",result="ok"}`, `varve_dynamodb_read_units_total`, `varve_dynamodb_write_units_total`,
	} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` [1-9]`).Match(text) {
			t.Errorf("no count of %s", name)
		}
	}
	used, err := price.ReadMetrics(bytes.NewReader(text))
	if err != nil || used.S3Puts == 0 || used.WriteUnits == 0 {
		t.Errorf("used %v, %v", used, err)
	}
	t.Logf("a restart and a consumer: %v", used)
}

// checkSegments has the tools read the bucket without a broker.
func checkSegments(t *testing.T, env, place []string) {
	t.Helper()
	list := varve(t, env, "", append([]string{"segment", "list"}, place...)...)
	key := regexp.MustCompile(`seg/\S+`).FindString(list)
	if key == "" {
		t.Fatalf("no sealed segment:\n%s", list)
	}
	if out := varve(t, env, "", append([]string{"verify"}, place...)...); !strings.HasPrefix(out, "2 topics") || !strings.Contains(out, "\n0 findings of damage, 0 ") {
		t.Errorf("verify printed %q", out)
	}
	if out := varve(t, env, "", append([]string{"segment", "dump", key}, place...)...); !strings.Contains(out, "segment of broker 1") {
		t.Errorf("dump printed %q", out)
	}
}

// varve runs the binary and returns what it prints.
func varve(t *testing.T, env []string, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, brokertest.Binary(t), args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), env...), strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("varve %s: %v", fmt.Sprint(args), err)
	}
	return string(out)
}
