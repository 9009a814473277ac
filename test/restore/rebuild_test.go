// Package restore takes from brokers what they cannot do without and gives it
// back: their catalogue, and the program that they run.
package restore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/test/internal/load"
)

// TestCatalogueIsLost kills all brokers under load, removes the catalogue,
// rebuilds it and starts them again, while the producer goes on trying: what it was
// told is there, once, in order. Then once more, with what the first time left.
func TestCatalogueIsLost(t *testing.T) { isLost(t, onFiles(t)) }

// TestCatalogueIsLostAWS is TestCatalogueIsLost on S3 and DynamoDB; what is lost is the table.
func TestCatalogueIsLostAWS(t *testing.T) { isLost(t, onAWS(t)) }

func isLost(t *testing.T, s site) {
	t.Helper()
	all, addrs := s.start(t, s.bin, "wal.checkpoint.objects=64", "log.segment.bytes=1048576", "log.dormant.ms=1000")
	l := load.Start(t, load.Build(t), addrs, "lost", "--seconds", "60", "--partitions", "12", "--keys", "1000", "--rate", "1500", "--batch", "65536", "--request-timeout", "2s")
	consumed := make(chan struct{}, 1<<20)
	consume(t, addrs, "lost", consumed)
	for range 2 {
		load.Wait(t, 8*time.Second)
		for _, b := range all {
			b.Kill()
		}
		s.lose(t)
		s.rebuild(t)
		for _, b := range all {
			b.Restart(t)
		}
		for len(consumed) > 0 {
			<-consumed
		}
		select {
		case <-consumed: // the group goes on
		case <-time.After(time.Minute):
			t.Fatal("the group reads nothing any more")
		}
	}
	produced, read := l.Check(t)
	t.Logf("%v acknowledged, %v read; %v", read["acked"], read["read"], produced)
}

// consume lets a group read a topic, until the test ends.
func consume(t *testing.T, addrs, topic string, read chan<- struct{}) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addrs, ",")...), kgo.ConsumerGroup("g"), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(500*time.Millisecond), kgo.SessionTimeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(*kgo.Record) {
				select {
				case read <- struct{}{}:
				default:
				}
			})
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		cl.Close()
	})
}

// TestAfterCompactionAndRetention: of logs that compaction, retention and
// DeleteRecords have worked on, a listing and a rebuilt catalogue read what the old catalogue did.
func TestAfterCompactionAndRetention(t *testing.T) {
	s := onFiles(t)
	b := brokertest.StartWith(t, brokertest.Options{Data: s.broker.Data, Settings: []string{
		"log.cleaner.backoff.ms=200", "log.retention.check.interval.ms=500", "log.segment.delete.delay.ms=500", "wal.checkpoint.objects=64", "log.dormant.ms=1000"}})
	topics := map[string]map[string]string{
		"compacted": {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "file.delete.delay.ms": "500"},
		"short":     {"retention.bytes": "8000", "segment.ms": "1000", "file.delete.delay.ms": "500"},
		"plain":     {"segment.ms": "1000"},
		"gone":      {},
	}
	cl := filled(t, b.Addr, topics)
	admin := kadm.NewClient(cl)
	if _, err := admin.DeleteTopic(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: "plain", Partition: 0, At: 100, LeaderEpoch: -1})
	if _, err := admin.DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	// A change, with which log starts come into the manifest.
	if _, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: kadm.StringPtr("-1")}}, "plain"); err != nil {
		t.Fatal(err)
	}
	settle(t, cl, admin)
	b.Kill()
	delete(topics, "gone")
	before := make(map[string]string)
	for topic := range topics {
		before[topic] = s.must(t, "replay", "--topic", topic, "--json")
	}
	s.lose(t)
	for topic := range topics {
		if d := cmp.Diff(before[topic], s.must(t, "replay", "--topic", topic, "--json", "--without-catalogue")); d != "" {
			t.Errorf("%s from the listing: (-before +now)\n%.2000s", topic, d)
		}
	}
	t.Log(s.must(t, "catalog", "rebuild", "--write"))
	for topic := range topics {
		if d := cmp.Diff(before[topic], s.must(t, "replay", "--topic", topic, "--json")); d != "" {
			t.Errorf("%s from the rebuilt catalogue: (-before +now)\n%.2000s", topic, d)
		}
	}
	b.Restart(t)
	if names, err := s.run(t, "topic", "list", "--bootstrap", b.Addr); err != nil || strings.Contains(names, "gone") {
		t.Errorf("a deleted topic is there again: %v\n%s", err, names)
	}
	if text, err := s.run(t, "topic", "describe", "short", "--bootstrap", b.Addr); err != nil || !strings.Contains(text, "8000") {
		t.Errorf("its settings are lost: %v\n%s", err, text)
	}
	record := &kgo.Record{Topic: "plain", Value: []byte("more")}
	if err := cl.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Error(err)
	}
}

// filled makes topics of one partition each and fills them.
func filled(t *testing.T, addr string, topics map[string]map[string]string) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	for topic, settings := range topics {
		configs := make(map[string]*string)
		for k, v := range settings {
			configs[k] = &v
		}
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, configs, topic); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 4 {
		for i := range 500 {
			for topic := range topics {
				r := &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "key-%d", (i*7+round)%50), Value: fmt.Appendf(nil, "%d-%d-%s", round, i, strings.Repeat("x", 200))}
				if round == 2 && i%50 == 0 {
					r.Value = nil
				}
				cl.Produce(t.Context(), r, nil)
			}
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		load.Wait(t, 1500*time.Millisecond) // segment.ms
		for topic := range topics {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("roll"), Value: []byte("roll")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return cl
}

// settle waits until retention has removed records of one topic and compaction
// of another, and the manifest has had time to say so.
func settle(t *testing.T, cl *kgo.Client, admin *kadm.Client) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; load.Wait(t, 200*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("neither retention nor compaction has done anything in two minutes")
		}
		starts, err := admin.ListStartOffsets(t.Context(), "short")
		if err != nil {
			t.Fatal(err)
		}
		if at, _ := starts.Lookup("short", 0); at.Offset > 0 && count(t, cl, "compacted") < 1500 {
			load.Wait(t, 3*time.Second)
			return
		}
	}
}

// count returns how many records a topic of 2,000 and some has.
func count(t *testing.T, cl *kgo.Client, topic string) int {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(cl.OptValue(kgo.SeedBrokers).([]string)...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	n := 0
	for last := int64(-1); last < 2003; {
		fetches := reader.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { n, last = n+1, r.Offset })
	}
	return n
}
