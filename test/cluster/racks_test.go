package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/test/internal/recap"
)

// racks are three brokers in a rack each.
type racks struct {
	t       testing.TB
	brokers []*brokertest.Broker
	topic   string
	sent    int
}

var rackNames = []string{"zone-a", "zone-b", "zone-c"}

const (
	rackPartitions = 12
	// recheck is when franz-go leaves a broker that has died for the leader.
	recheck = 3 * time.Second
)

func startRacks(t testing.TB, place where) *racks {
	t.Helper()
	t = recap.New(t)
	r := &racks{t: t, topic: strings.ToLower(t.Name())}
	for i, rack := range rackNames {
		o := place(i + 1)
		o.Args = append(slices.Clone(o.Args), "--id", strconv.Itoa(i+1), "--rack", rack)
		o.Settings = append([]string{"wal.checkpoint.objects=64", "log.segment.bytes=1048576", "group.initial.rebalance.delay.ms=0"}, o.Settings...)
		r.brokers = append(r.brokers, brokertest.StartWith(t, o))
	}
	eventually(t, "slots are even", func() bool { return slices.Equal(r.slots(), []int{85, 85, 86}) })
	cl := r.client()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), rackPartitions, 3, nil, r.topic); err != nil {
		t.Fatal(err)
	}
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, time.Minute, what, ok)
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", limit, what)
		}
	}
}

func (r *racks) client(opts ...kgo.Opt) *kgo.Client {
	r.t.Helper()
	var seeds []string
	for _, b := range r.brokers {
		seeds = append(seeds, b.Addr)
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond)}, opts...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	return cl
}

// slots returns how many slots brokers have, sorted.
func (r *racks) slots() []int {
	var n []int
	for _, row := range r.status() {
		n = append(n, row.slots)
	}
	slices.Sort(n)
	return n
}

type statusRow struct {
	rack  string
	slots int
}

// status is what `varve cluster status` says of the brokers.
func (r *racks) status() (rows []statusRow) {
	r.t.Helper()
	for line := range strings.Lines(r.brokers[0].Varve(r.t, "cluster", "status")) {
		f := strings.Fields(line)
		if len(f) < 7 || f[0] == "BROKER" {
			continue
		}
		n, err := strconv.Atoi(f[5])
		if err != nil {
			continue
		}
		rows = append(rows, statusRow{f[3], n})
	}
	return rows
}

// produce writes n records more, round robin.
func (r *racks) produce(n int) {
	r.t.Helper()
	cl := r.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	var records []*kgo.Record
	for range n {
		records = append(records, &kgo.Record{Topic: r.topic, Partition: int32(r.sent % rackPartitions), Value: r.value(r.sent)})
		r.sent++
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *racks) value(i int) []byte {
	return fmt.Appendf(nil, "record %06d %s", i, strings.Repeat("x", 100))
}

// followed returns the bytes that each broker has read for others, their leaders.
func (r *racks) followed() []float64 {
	var all []float64
	for _, b := range r.brokers {
		all = append(all, metric(r.t, b, "varve_follower_bytes_out_total"))
	}
	return all
}

func metric(t testing.TB, b *brokertest.Broker, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			v, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// reader reads the topic in a rack and checks that it reads each partition without a gap.
type reader struct {
	r    *racks
	cl   *kgo.Client
	next [rackPartitions]int
}

// reader reads from the start.
func (r *racks) reader(rack string) *reader { return r.readerFrom(rack, 0) }

// readerFrom reads each partition from an offset.
func (r *racks) readerFrom(rack string, offset int) *reader {
	rd, from := &reader{r: r}, make(map[int32]kgo.Offset)
	for p := range rd.next {
		rd.next[p], from[int32(p)] = offset, kgo.NewOffset().At(int64(offset))
	}
	rd.cl = r.client(kgo.Rack(rack), kgo.RecheckPreferredReplicaInterval(recheck), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: from}))
	return rd
}

// readAll reads what was produced so far.
func (rd *reader) readAll() {
	rd.r.t.Helper()
	ctx, cancel := context.WithTimeout(rd.r.t.Context(), time.Minute)
	defer cancel()
	for rd.count() < rd.r.sent {
		fetches := rd.cl.PollFetches(ctx)
		if ctx.Err() != nil {
			rd.r.t.Fatalf("%d of %d records in a minute", rd.count(), rd.r.sent)
		}
		fetches.EachError(func(_ string, p int32, err error) { rd.r.t.Errorf("partition %d: %v", p, err) })
		fetches.EachRecord(func(rec *kgo.Record) {
			p := int(rec.Partition)
			if want := rd.r.value(rd.next[p]*rackPartitions + p); rec.Offset != int64(rd.next[p]) || !bytes.Equal(rec.Value, want) {
				rd.r.t.Errorf("partition %d offset %d: %q where %d should be", p, rec.Offset, rec.Value, rd.next[p])
			}
			rd.next[p]++
		})
	}
}

func (rd *reader) count() (n int) {
	for _, next := range rd.next {
		n += next
	}
	return n
}

// TestRacks: brokers in three racks share the partitions evenly and say where they are; a consumer reads
// from the broker in its own rack, whoever leads, and nothing is missing when that broker dies.
func TestRacks(t *testing.T) {
	t.Parallel()
	testRacks(t, onFiles(t))
}

// TestRacksAWS is TestRacks on S3 and DynamoDB.
func TestRacksAWS(t *testing.T) {
	t.Parallel()
	testRacks(t, onAWS(awstest.VersityGW(t), awstest.DynamoDBLocal(t)))
}

func testRacks(t testing.TB, place where) {
	r := startRacks(t, place)
	r.checkMetadata()
	r.produce(6000)
	b := r.reader("zone-b")
	b.readAll()
	all := r.followed()
	if all[0] != 0 || all[2] != 0 || all[1] == 0 {
		t.Errorf("bytes read for leaders: %v, want them by the second broker only", all)
	}
	r.java("zone-c")
	if now := r.followed(); now[0] != 0 || now[1] != all[1] || now[2] == 0 {
		t.Errorf("bytes read for leaders: %v, by the Java consumer too: %v", all, now)
	}
	for range 10 { // now at the log's end, by long polls
		r.produce(120)
		b.readAll()
	}
	for round := range rounds(t, 1) {
		if round > 0 {
			r.again(0)
		}
		r.brokers[1].Kill() // the consumer goes to the leaders
		r.produce(1200)
		b.readAll()
		r.again(1)
		c := r.reader("zone-c")
		r.brokers[0].Kill() // a leader of what is read in another rack
		r.produce(1200)
		c.readAll()
		b.readAll()
	}
}

// again starts a broker again, and waits until slots are even.
func (r *racks) again(broker int) {
	r.t.Helper()
	r.brokers[broker].Restart(r.t)
	eventually(r.t, "slots are even", func() bool { return slices.Equal(r.slots(), []int{85, 85, 86}) })
}

// checkMetadata: every broker is in its rack, and the replicas of a partition are in three.
func (r *racks) checkMetadata() {
	r.t.Helper()
	cl := kadm.NewClient(r.client())
	m, err := cl.Metadata(r.t.Context(), r.topic)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range m.Brokers {
		if b.Rack == nil || *b.Rack != rackNames[b.NodeID-1] {
			r.t.Errorf("broker %d: rack %v", b.NodeID, b.Rack)
		}
	}
	leaders, together := make(map[int32]int), 0
	for _, p := range m.Topics[r.topic].Partitions.Sorted() {
		leaders[p.Leader]++
		if slices.Sort(p.Replicas); !slices.Equal(p.Replicas, []int32{1, 2, 3}) {
			r.t.Errorf("partition %d: replicas %v", p.Partition, p.Replicas)
		}
		if next, ok := m.Topics[r.topic].Partitions[p.Partition+1]; ok && next.Leader == p.Leader {
			together++
		}
	}
	if together > rackPartitions/4 { // slots that moved while brokers began may have come to lie together
		r.t.Errorf("%d partitions are led by their neighbours' leaders", together)
	}
	for id, n := range leaders {
		if n < rackPartitions/6 || n > rackPartitions/2 {
			r.t.Errorf("broker %d leads %d of %d partitions", id, n, rackPartitions)
		}
	}
	for i, row := range r.status() {
		if row.rack != rackNames[i] {
			r.t.Errorf("varve cluster status: broker %d is in %q", i+1, row.rack)
		}
	}
}

// java reads all with Kafka's own consumer in a rack.
func (r *racks) java(rack string) {
	r.t.Helper()
	root := brokertest.Root(r.t)
	home := filepath.Join(root, ".tools", "kafka-peer")
	if _, err := os.Stat(filepath.Join(home, "libs")); err != nil {
		r.t.Fatal("Apache Kafka's jars are missing: run .ci/setup-kafka")
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root, "bench", "kafka-peer.sh"), "console-consumer", "--bootstrap-server", r.brokers[0].Addr, "--topic", r.topic,
		"--from-beginning", "--group", "java", "--max-messages", strconv.Itoa(r.sent), "--timeout-ms", "60000", "--consumer-property", "client.rack="+rack)
	cmd.Env = append(os.Environ(), "KAFKA_PEER_HOME="+home)
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("console-consumer: %v\n%s", err, out)
	}
	var got, want []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "record ") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	for i := range r.sent {
		want = append(want, string(r.value(i)))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		r.t.Errorf("the Java consumer read %d records, %d were written, or others", len(got), len(want))
	}
}
