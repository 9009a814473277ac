package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta/dynamo"
	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/compaction"
	"github.com/varvelog/varve/tiering/retention"
	"github.com/varvelog/varve/tiering/sweep"
	"github.com/varvelog/varve/tiering/upload"
)

// The topics of TestFunctions.
const (
	expiring = "events" // its first half expires
	keyed    = "state"  // is compacted
	slow     = "audit"  // is sealed a record at a time

	rounds        = 8 // of writing, so that each topic has some segments
	expiringCount = rounds * 200
	keyedCount    = rounds * 100
	keys          = 10
	value         = 8 << 10          // bytes
	slots         = 16               // fewer than brokers would make: this DynamoDB is slow
	expiry        = 45 * time.Second // until the first half expires
	retentionMs   = int64(time.Hour / time.Millisecond)
	soon          = 4 * time.Minute // some runs of a schedule of one a minute
)

// TestFunctions has the stack at work: brokers write to its bucket and table,
// and functions compact, merge, expire and sweep what is there, each by its
// schedule and with the rights of its role; the broker that lives hears of it, and
// replay reads what is left with the rights of a reader.
func TestFunctions(t *testing.T) {
	endpoint := awstest.LocalStack(t)
	d := deploy(t, endpoint, map[string]any{
		"size": "dev", "arch": runtime.GOARCH, "every": 1, "sweepEvery": 1,
		"settings": "log.segment.delete.delay.ms=1000,segment.merge.interval.ms=1000,segment.merge.min.count=3",
	})
	jobs := []string{compaction.JobName, retention.JobName, sweep.JobName}
	gates := d.hold(t, jobs...)
	c := newCluster(t, d)
	brokers := startBrokers(t, c)
	c.produceAll(t, brokers[0])
	killed := c.session(t, 1)
	brokers[0].Kill() // its WAL and its slots are the other's now
	consumeState(t, brokers[1])
	c.await(t, "the jobs are the functions'", func() bool {
		return !slices.ContainsFunc(jobs, func(job string) bool { return c.holder(t, job) != catalog.FunctionHolder })
	})
	litter := c.litter(t, killed)

	c.await(t, "segments were compacted", func() bool { return byJob(c.segments(t, keyed)) && len(c.replay(t, keyed)) < keyedCount/2 })
	c.await(t, "small segments were merged", func() bool { now := c.segments(t, slow); return byJob(now) && len(now) <= rounds/2 })
	c.await(t, "segments expired", func() bool { return c.segments(t, expiring)[0].Base > 0 })
	c.await(t, "an object that nothing names was swept", func() bool { return !slices.Contains(c.objects(t), litter) })
	c.await(t, "the objects of what was replaced and removed are gone", func() bool { return slices.Equal(c.objects(t), c.named(t)) })
	admin := kadm.NewClient(newClient(t, brokers[1]))
	c.await(t, "the broker knows the start", func() bool { return startOf(t, admin, expiring) == int64(c.segments(t, expiring)[0].Base) })
	if code := brokers[1].Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	gates["reader"] = newGate(t, endpoint, d.template.ofReader(t))
	c.env = awstest.Environ(gates["reader"].URL, gates["reader"].URL)
	checkExpired(t, c.replay(t, expiring))
	checkState(t, c.replay(t, keyed))
	if got := c.replay(t, slow); len(got) != rounds || got[0].Offset != 0 || got[rounds-1].Key != strconv.Itoa(rounds-1) {
		t.Errorf("replay of %s: %v", slow, got)
	}
	if out := varve(t, c.env, "", append([]string{"verify"}, c.place...)...); !strings.Contains(out, "\n0 findings of damage, ") {
		t.Errorf("verify printed %q", out)
	}
	for who, g := range gates {
		g.check(t, who)
	}
}

// cluster is a log on a deployment.
type cluster struct {
	*deployment
	place, env []string // where the CLI and brokers find it
	catalog    *catalog.Catalog
}

// newCluster makes the log, which brokers would make with more slots.
func newCluster(t *testing.T, d *deployment) *cluster {
	t.Helper()
	table, err := dynamo.New(awstest.Config(d.endpoint), dynamo.Options{Table: d.outputs["Table"]})
	if err != nil {
		t.Fatal(err)
	}
	cat := catalog.New(table)
	if _, err := cat.Cluster(t.Context(), slots); err != nil {
		t.Fatal(err)
	}
	return &cluster{d, []string{"--bucket", d.outputs["Bucket"], "--table", d.outputs["Table"]}, awstest.Environ(d.endpoint, d.endpoint), cat}
}

// await waits until schedules have made something so.
func (c *cluster) await(t *testing.T, what string, so func() bool) {
	t.Helper()
	begin := time.Now()
	awaitThat(t, what, soon, so)
	t.Logf("%s after %v", what, time.Since(begin).Round(time.Second))
}

func (c *cluster) holder(t *testing.T, job string) string {
	t.Helper()
	l, err := c.catalog.Lease(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return l.Holder
}

// segments returns the entries of a topic's only partition.
func (c *cluster) segments(t *testing.T, topic string) []catalog.Segment {
	t.Helper()
	if err := c.catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	is, ok := c.catalog.Topics().ByName(topic)
	if !ok {
		t.Fatalf("no topic %s", topic)
	}
	all, err := c.catalog.Segments(t.Context(), kafka.TopicPartition{Topic: is.ID}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// named returns the keys of all topics' segments, in order.
func (c *cluster) named(t *testing.T) (all []string) {
	t.Helper()
	for _, topic := range []string{expiring, keyed, slow} {
		for _, s := range c.segments(t, topic) {
			if s.Key != "" {
				all = append(all, s.Key)
			}
		}
	}
	slices.Sort(all)
	return all
}

// objects returns the keys of the segments' objects in the bucket, in order.
func (c *cluster) objects(t *testing.T) (all []string) {
	t.Helper()
	list := string(request(t, c.endpoint, "s3", fmt.Sprintf("GET /%s?list-type=2&prefix=seg/", c.outputs["Bucket"]), nil, nil))
	for _, part := range strings.Split(list, "<Key>")[1:] {
		key, _, _ := strings.Cut(part, "<")
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// session returns a broker's session.
func (c *cluster) session(t *testing.T, broker int32) catalog.SessionID {
	t.Helper()
	all, err := c.catalog.Sessions(t.Context(), broker)
	if err != nil || len(all) == 0 {
		t.Fatalf("sessions of broker %d: %v, %v", broker, all, err)
	}
	return all[len(all)-1].ID
}

// litter puts an object as a session would have left it that was killed: of an
// upload that was never registered.
func (c *cluster) litter(t *testing.T, of catalog.SessionID) (key string) {
	t.Helper()
	first := c.segments(t, slow)[0]
	key = upload.SegmentKey(first.TP, first.Base, bundle.Origin{Broker: of.Broker, Epoch: of.Epoch}, 999)
	request(t, c.endpoint, "s3", fmt.Sprintf("PUT /%s/%s", c.outputs["Bucket"], key), nil, []byte("litter"))
	return key
}

// startBrokers starts two, whose own schedules come round after the test.
func startBrokers(t *testing.T, c *cluster) (all []*brokertest.Broker) {
	t.Helper()
	for id := range 2 {
		all = append(all, brokertest.StartWith(t, brokertest.Options{
			Args: append([]string{"--id", strconv.Itoa(id + 1)}, c.place...), Env: c.env,
			Settings: []string{"log.cleaner.backoff.ms=3600000", "log.retention.check.interval.ms=3600000", "broker.session.timeout.ms=3000"},
		}))
	}
	return all
}

// produceAll writes to the three topics. It waits for each record of the slow
// one to be sealed.
func (c *cluster) produceAll(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	client := newClient(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	text := func(s string) *string { return &s }
	for topic, settings := range map[string]map[string]*string{
		expiring: {"segment.bytes": text("1048576"), "retention.ms": text(strconv.FormatInt(retentionMs, 10))},
		keyed:    {"segment.bytes": text("1048576"), "cleanup.policy": text("compact"), "min.cleanable.dirty.ratio": text("0.01")},
		slow:     {"segment.ms": text("100")},
	} {
		if _, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, settings, topic); err != nil {
			t.Fatal(err)
		}
	}
	send := func(topic string, i int, at time.Time, key int, value []byte) {
		client.Produce(ctx, &kgo.Record{Topic: topic, Timestamp: at, Key: strconv.AppendInt(nil, int64(key), 10), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("record %d of %s: %v", i, topic, err)
			}
		})
	}
	for round := range rounds {
		for i := round * expiringCount / rounds; i < (round+1)*expiringCount/rounds; i++ {
			at := time.Now()
			if i < expiringCount/2 {
				at = at.Add(expiry - time.Duration(retentionMs)*time.Millisecond)
			}
			send(expiring, i, at, i, bytes.Repeat([]byte{'v'}, value))
		}
		for i := round * keyedCount / rounds; i < (round+1)*keyedCount/rounds; i++ {
			send(keyed, i, time.Now(), i%keys, append(strconv.AppendInt(nil, int64(i), 10), bytes.Repeat([]byte{' '}, value)...))
		}
		send(slow, round, time.Now(), round, nil)
		if err := client.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		awaitThat(t, "a record is sealed", time.Minute, func() bool {
			now := c.segments(t, slow)
			return len(now) > 0 && now[len(now)-1].End == kafka.Offset(round+1)
		})
	}
}

// consumeState reads a topic from the broker that has taken it over.
func consumeState(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := newClient(t, b, kgo.ConsumeTopics(keyed), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for last := int64(-1); last < keyedCount-1; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("behind offset %d: %v", last, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { last = r.Offset })
	}
}

// startOf returns the start of a topic's only partition, as a broker tells it.
func startOf(t *testing.T, admin *kadm.Client, topic string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	start, _ := starts.Lookup(topic, 0)
	return start.Offset
}

// byJob tells whether a job has written one of the segments.
func byJob(segs []catalog.Segment) bool {
	return slices.ContainsFunc(segs, func(s catalog.Segment) bool {
		_, _, writer, _ := upload.ParseSegmentKey(s.Key)
		return writer.Broker == upload.JobBroker
	})
}

// replayed is a record as `varve replay --json` prints it.
type replayed struct {
	Offset     int64
	Key, Value string
}

func (c *cluster) replay(t *testing.T, topic string) (all []replayed) {
	t.Helper()
	for line := range strings.Lines(varve(t, c.env, "", append([]string{"replay", "--json", "--topic", topic}, c.place...)...)) {
		var r replayed
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if n := len(all); n > 0 && all[n-1].Offset >= r.Offset {
			t.Fatalf("offset %d behind %d", r.Offset, all[n-1].Offset)
		}
		all = append(all, r)
	}
	return all
}

// checkExpired: the records from some offset on, up to the last one, and at
// least those that have not expired.
func checkExpired(t *testing.T, got []replayed) {
	t.Helper()
	n := len(got)
	if n < expiringCount/2 || n >= expiringCount || got[n-1].Offset != expiringCount-1 || got[0].Offset != int64(expiringCount-n) {
		t.Errorf("%d records", n)
	}
	for _, r := range got {
		if r.Key != strconv.FormatInt(r.Offset, 10) {
			t.Fatalf("key %s at offset %d", r.Key, r.Offset)
		}
	}
}

// checkState: the last record of each key is there, at its offset, and of the
// others no more than those that compaction had not come to.
func checkState(t *testing.T, got []replayed) {
	t.Helper()
	if len(got) >= keyedCount || len(got) < keys {
		t.Errorf("%d records of %d are left", len(got), keyedCount)
	}
	last := make(map[string]int64)
	for _, r := range got {
		if at := strings.TrimSpace(r.Value); at != strconv.FormatInt(r.Offset, 10) {
			t.Errorf("record %s at offset %d", at, r.Offset)
		}
		last[r.Key] = r.Offset
	}
	for key := range keys {
		if want := int64(keyedCount - keys + key); last[strconv.Itoa(key)] != want {
			t.Errorf("the last record of key %d is at offset %d, want %d", key, last[strconv.Itoa(key)], want)
		}
	}
}
