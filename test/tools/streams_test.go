package tools

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestStreams counts words with Kafka Streams' example, exactly once
// (exactly_once_v2), while the broker is killed twice: what is committed in the
// end has each word counted as often as it was written.
func TestStreams(t *testing.T) {
	root := brokertest.Root(t)
	home := filepath.Join(root, ".tools", "kafka-peer")
	if _, err := os.Stat(filepath.Join(home, "libs")); err != nil {
		missing(t, "Apache Kafka's jars (run .ci/setup-kafka)")
	}
	const input, output = "streams-plaintext-input", "streams-wordcount-output" // the example's
	b := brokertest.Start(t, "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000")
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic(input), kgo.ConsumeTopics(output), kgo.AlwaysRetryEOF(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopics(t.Context(), 2, 1, nil, input, output); err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(t.TempDir(), "streams.properties")
	text := fmt.Sprintf("bootstrap.servers=%s\nprocessing.guarantee=exactly_once_v2\nstate.dir=%s\ncommit.interval.ms=50\nauto.offset.reset=earliest\nstatestore.cache.max.bytes=0\n", b.Addr, t.TempDir())
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	streams := exec.CommandContext(t.Context(), filepath.Join(root, "bench", "kafka-peer.sh"), "streams-wordcount", settings)
	streams.Env = append(os.Environ(), "KAFKA_PEER_HOME="+home)
	said, err := os.Create(filepath.Join(t.TempDir(), "streams.log"))
	if err != nil {
		t.Fatal(err)
	}
	streams.Stdout, streams.Stderr = said, said
	if err := streams.Start(); err != nil {
		t.Fatal(err)
	}
	want, got := make(map[string]int64), make(map[string]int64)
	read := func(until time.Time) {
		ctx, cancel := context.WithDeadline(t.Context(), until)
		defer cancel()
		for ctx.Err() == nil && !maps.Equal(want, got) {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				n := int64(binary.BigEndian.Uint64(r.Value))
				if word := string(r.Key); n != got[word]+1 {
					t.Errorf("%q is counted %d behind %d", word, n, got[word])
				}
				got[string(r.Key)] = n
			})
		}
	}
	for round := range 3 {
		for i := range 300 {
			for _, word := range []string{"all", "streams", fmt.Sprintf("lead%d", i%7)} {
				want[word]++
			}
			cl.Produce(t.Context(), kgo.KeySliceRecord(fmt.Append(nil, i), fmt.Appendf(nil, "all streams lead%d", i%7)), func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for limit := time.Now().Add(time.Minute); len(got) == 0 && time.Now().Before(limit); { // it has begun
			read(time.Now().Add(200 * time.Millisecond))
		}
		if round < 2 {
			b.Kill() // within what it does
			b.Restart(t)
		}
	}
	read(time.Now().Add(90 * time.Second))
	if !maps.Equal(want, got) {
		t.Errorf("counted %v, written %v", got, want)
	}
	if t.Failed() {
		b, _ := os.ReadFile(said.Name())
		t.Logf("%s", b[max(0, len(b)-8000):])
	}
	_ = streams.Process.Kill()
	_ = streams.Wait()
}
