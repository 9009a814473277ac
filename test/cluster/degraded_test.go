package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/load"
)

// away is for how long a store is away: longer than the session timeout of TestDegraded.
const away = 6 * time.Second

// TestDegraded takes the catalogue away from all brokers, then the object store, then makes that slow: what
// docs/operations.md says goes on does, the rest fails with what a retry hides, metrics tell which it is, and afterwards all is
// there once and nobody has taken anything while the catalogue was away.
func TestDegraded(t *testing.T) {
	t.Parallel()
	s3, dynamodb := farAway(t, loopback)
	r := startRacks(t, onAWS(s3.URL, dynamodb.URL, "wal.interval.ms=20", "wal.checkpoint.objects=2", "broker.session.timeout.ms=4000", "broker.heartbeat.interval.ms=500"))
	admin := kadm.NewClient(r.client())
	r.produce(rackPartitions * 10)
	reader := r.reader("zone-b")
	reader.readAll()
	for round := range rounds(t, 1) {
		r.degrade(admin, reader, s3, dynamodb, fmt.Sprint("later-", round))
	}
}

func (r *racks) degrade(admin *kadm.Client, reader *reader, s3, dynamodb *awstest.Faulty, later string) {
	t, ctx, all := r.t, r.t.Context(), awstest.Faults{Fail: 1, Reads: true}
	before, hot := leaderEpochs(t, admin, r.topic), r.sent/rackPartitions
	dynamodb.Set(all)
	begin := time.Now()
	r.produce(rackPartitions * 10)
	reader.readAll()
	if took := time.Since(begin); took > away {
		t.Errorf("without the catalogue, writing and reading took %s", took)
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	if resp, err := admin.CreateTopic(short, 1, 3, nil, later); err == nil && (resp.Err == nil || !retriable(resp.Err)) {
		t.Errorf("without the catalogue a topic is made: %v", resp.Err)
	}
	cancel()
	load.Wait(t, time.Until(begin.Add(away)))
	r.produce(rackPartitions) // others may think what they like
	if n := metric(t, r.brokers[0], "varve_session_heartbeat_age_seconds"); n < away.Seconds()/2 {
		t.Errorf("without the catalogue the heartbeat's age is %v s", n)
	}
	dynamodb.Set(awstest.Faults{})
	eventually(t, "a topic can be made", func() bool {
		resp, err := admin.CreateTopic(ctx, 1, 3, nil, later)
		return err == nil && (resp.Err == nil || errors.Is(resp.Err, kerr.TopicAlreadyExists))
	})
	if after := leaderEpochs(t, admin, r.topic); after != before {
		t.Errorf("slots have changed hands while nobody could: %s, then %s", before, after)
	}
	reader.readAll()

	s3.Set(all)
	again := r.readerFrom("zone-a", hot) // what the leaders' own sessions took, from RAM, before a session whose PUTs wait is suspected
	again.readAll()
	begin = time.Now()
	r.impossible(ctx, later)
	load.Wait(t, time.Until(begin.Add(away)))
	waits := 0.0
	for _, b := range r.brokers {
		waits = max(waits, metric(t, b, "varve_wal_oldest_wait_seconds"))
	}
	if waits < away.Seconds()/2 {
		t.Errorf("without the object store the oldest PUT waits for %v s", waits)
	}
	s3.Set(awstest.Faults{Slow: 1, Reads: true})
	begin = time.Now()
	r.produce(rackPartitions)
	t.Logf("with PUTs that take up to two seconds longer, a record to each partition takes %s", time.Since(begin).Round(time.Millisecond))
	s3.Set(awstest.Faults{})
	r.produce(rackPartitions * 10)
	reader.readAll()
	again.readAll()
}

// impossible writes what cannot become durable: it must not be acknowledged. It goes to another topic, since it may be
// there later all the same.
func (r *racks) impossible(ctx context.Context, topic string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cl := r.client(kgo.DisableIdempotentWrite(), kgo.ProduceRequestTimeout(time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner())) // an idempotent one never gives up
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr(); err == nil {
		r.t.Error("acknowledged without an object store")
	}
}

func retriable(err error) bool { return kerr.IsRetriable(err) }

// leaderEpochs tells who leads which partition in which epoch.
func leaderEpochs(t testing.TB, admin *kadm.Client, topic string) string {
	t.Helper()
	m, err := admin.Metadata(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for _, p := range m.Topics[topic].Partitions.Sorted() {
		text += fmt.Sprintf("%d:%d/%d ", p.Partition, p.Leader, p.LeaderEpoch)
	}
	return text
}
