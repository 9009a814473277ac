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

// The topics of Kafka Streams' example.
const (
	streamsInput  = "streams-plaintext-input"
	streamsOutput = "streams-wordcount-output"
)

// TestStreams counts words with Kafka Streams' example, exactly once
// (exactly_once_v2), while first the broker is killed, and then the program:
// what is committed in the end has each word counted as often as it was written, one by one.
func TestStreams(t *testing.T) {
	root := brokertest.Root(t)
	home := filepath.Join(root, ".tools", "kafka-peer")
	if _, err := os.Stat(filepath.Join(home, "libs")); err != nil {
		missing(t, "Apache Kafka's jars (run .ci/setup-kafka)")
	}
	b := brokertest.Start(t, "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000")
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic(streamsInput), kgo.ConsumeTopics(streamsOutput), kgo.AlwaysRetryEOF(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopics(t.Context(), 2, 1, nil, streamsInput, streamsOutput); err != nil {
		t.Fatal(err)
	}
	w := words{t: t, cl: cl, want: make(map[string]int64), got: make(map[string]int64)}
	settings := filepath.Join(t.TempDir(), "streams.properties")
	text := fmt.Sprintf("bootstrap.servers=%s\nprocessing.guarantee=exactly_once_v2\nstate.dir=%s\ncommit.interval.ms=500\nauto.offset.reset=earliest\n"+
		"statestore.cache.max.bytes=0\nsession.timeout.ms=2000\nheartbeat.interval.ms=500\n", b.Addr, t.TempDir())
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bench", "kafka-peer.sh"), "streams-wordcount", settings)
		cmd.Env = append(os.Environ(), "KAFKA_PEER_HOME="+home)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	streams := start()
	w.write(1)
	w.atWork()
	w.write(300)
	b.Kill()
	b.Restart(t)
	w.write(1)
	w.atWork()
	w.write(300)
	_ = streams.Process.Kill()
	_ = streams.Wait()
	streams = start()
	w.write(300)
	w.atWork()
	w.poll(t.Context(), 3*time.Second) // nothing may follow
	if !maps.Equal(w.want, w.got) {
		t.Errorf("counted %v, written %v", w.got, w.want)
	}
	_ = streams.Process.Kill()
	_ = streams.Wait()
}

// words counts what is written and what is read.
type words struct {
	t         *testing.T
	cl        *kgo.Client
	want, got map[string]int64
}

// write writes lines, one each 5 ms.
func (w *words) write(lines int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range lines {
		last := fmt.Sprintf("lead%d", i%7)
		for _, word := range []string{"all", "streams", last} {
			w.want[word]++
		}
		w.cl.Produce(w.t.Context(), kgo.KeyStringRecord(last, "all streams "+last), func(_ *kgo.Record, err error) {
			if err != nil {
				w.t.Error(err)
			}
		})
		<-tick.C
	}
	if err := w.cl.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// atWork waits until all that is written so far has been counted.
func (w *words) atWork() {
	for limit := time.Now().Add(90 * time.Second); !maps.Equal(w.want, w.got); {
		if time.Now().After(limit) {
			w.t.Fatalf("counted %v, written %v", w.got, w.want)
		}
		w.poll(w.t.Context(), 200*time.Millisecond)
	}
}

// poll reads what has been counted for a while.
func (w *words) poll(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		w.cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			word, n := string(r.Key), int64(binary.BigEndian.Uint64(r.Value))
			if n != w.got[word]+1 {
				w.t.Errorf("%q is counted %d behind %d", word, n, w.got[word])
			}
			w.got[word] = n
		})
	}
}
