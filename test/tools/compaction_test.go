package tools

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// compactable is how the topic of TestCompaction is made, here and on Apache Kafka.
var compactable = map[string]string{
	"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "file.delete.delay.ms": "1000",
}

// TestCompaction compacts a topic and reads it with kcat and franz-go: the last record of each
// key at its old offset, from the beginning, from within holes and by time.
func TestCompaction(t *testing.T) {
	if _, err := exec.LookPath("kcat"); err != nil {
		missing(t, "kcat")
	}
	b := brokertest.Start(t, "log.cleaner.backoff.ms=100", "log.retention.check.interval.ms=500")
	c := newCompacted(t, b.Addr)
	c.produce(t)
	c.await(t)

	out, err := exec.CommandContext(t.Context(), "kcat", "-b", b.Addr, "-q", "-C", "-t", "c", "-e", "-o", "beginning", "-f", "%o %k\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := c.offsets(c.left, 0)
	if got := strings.Fields(string(out)); len(got) != 2*(len(want)+1) { // and the last one, "hot"
		t.Errorf("kcat reads %d records, want %d", len(got)/2, len(want)+1)
	}
	for _, from := range []int64{0, 1, 57, 299, 300, 599} {
		if diff := cmp.Diff(c.offsets(c.left, from), c.offsets(c.read(t, from), from)); diff != "" {
			t.Errorf("from offset %d (-want +got):\n%s", from, diff)
		}
	}
	c.byTime(t)
	c.epochs(t)

	says := fmt.Sprintf("–600, %d records", len(want)+1)
	until(t, "one segment holds what is left", func() bool {
		lines := strings.Split(strings.TrimSpace(varve(t, "segment", "list", "c", "--data", b.Data)), "\n")
		line := strings.Fields(lines[len(lines)-1])
		return len(lines) == 2 && strings.Contains(varve(t, "segment", "dump", "--data", b.Data, line[len(line)-1]), says)
	})
	varve(t, "segment", "verify", "--data", b.Data)
	if got := varve(t, "replay", "--topic", "c", "--json", "--data", b.Data); strings.Count(got, "\n") != len(want)+1 {
		t.Errorf("replay reads other than %d records:\n%s", len(want)+1, got)
	}
	b.Kill()
	b.Restart(t)
	until(t, "what is left is read after a restart", func() bool { // first the tail is served as it was written
		return cmp.Equal(c.offsets(c.left, 0), c.offsets(c.read(t, 0), 0))
	})
}

// compacted is a topic of 600 records of 30 keys, and what compaction leaves of it.
type compacted struct {
	addr string
	cl   *kgo.Client
	left map[int64]string // by offset, key and value
	base time.Time
}

func newCompacted(t *testing.T, addr string) *compacted {
	t.Helper()
	return &compacted{addr: addr, cl: compactedTopic(t, addr, compactable), left: make(map[int64]string), base: time.Now().Truncate(time.Millisecond)}
}

// compactedTopic makes the topic c and returns a client that writes to it.
func compactedTopic(t *testing.T, addr string, settings map[string]string) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("c"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	configs := make(map[string]*string)
	for k, v := range settings {
		configs[k] = &v
	}
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, configs, "c"); err != nil {
		t.Fatal(err)
	}
	return cl
}

// produce writes 60 batches of ten records, of which one key ends with a
// tombstone, and a record of much later, which rolls a segment in Kafka.
func (c *compacted) produce(t *testing.T) {
	t.Helper()
	last := make(map[string]int64)
	for batch := range int64(60) {
		var recs []*kgo.Record
		for i := range int64(10) {
			off := 10*batch + i
			key := off % (30 - off/40) // some keys fall silent earlier than others
			r := &kgo.Record{Key: fmt.Appendf(nil, "key-%d", key), Value: fmt.Appendf(nil, "value-%d", off), Timestamp: c.base.Add(time.Duration(off) * time.Millisecond)}
			if key == 0 && batch > 55 {
				r.Value = nil
			}
			recs = append(recs, r)
			delete(c.left, last[string(r.Key)])
			last[string(r.Key)] = off
			c.left[off] = fmt.Sprintf("%s=%s", r.Key, r.Value)
		}
		if err := c.cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	hot := &kgo.Record{Key: []byte("hot"), Value: []byte("hot"), Timestamp: c.base.Add(time.Minute)}
	if err := c.cl.ProduceSync(t.Context(), hot).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// await reads until only the last record of each key is left.
func (c *compacted) await(t *testing.T) {
	t.Helper()
	until(t, "the topic is compacted", func() bool { return len(c.read(t, 0)) == len(c.left) })
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// read reads the records from an offset up to the last one.
func (c *compacted) read(t *testing.T, from int64) map[int64]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"c": {0: kgo.NewOffset().At(from)}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	got := make(map[int64]string)
	for {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range fetches.RecordsAll() {
			if string(r.Key) == "hot" {
				return got
			}
			if r.Offset < from {
				t.Errorf("offset %d from %d on", r.Offset, from)
			}
			if at := c.base.Add(time.Duration(r.Offset) * time.Millisecond); !r.Timestamp.Equal(at) {
				t.Errorf("offset %d has the time %v, want %v", r.Offset, r.Timestamp, at)
			}
			got[r.Offset] = fmt.Sprintf("%s=%s", r.Key, r.Value)
		}
	}
}

// offsets returns what lies at an offset or behind it.
func (c *compacted) offsets(all map[int64]string, from int64) map[int64]string {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(off int64, _ string) bool { return off < from })
	return all
}

// byTime looks up the time of each offset: the first record that is left from there on.
func (c *compacted) byTime(t *testing.T) {
	t.Helper()
	for _, off := range []int64{0, 100, 575, 599} {
		want := int64(600)
		for o := range c.left {
			if o >= off {
				want = min(want, o)
			}
		}
		got, err := kadm.NewClient(c.cl).ListOffsetsAfterMilli(t.Context(), c.base.UnixMilli()+off, "c")
		if err != nil {
			t.Fatal(err)
		}
		if at, _ := got.Lookup("c", 0); at.Offset != want || at.Err != nil {
			t.Errorf("the time of offset %d is at %d (%v), want %d", off, at.Offset, at.Err, want)
		}
	}
}

// epochs asks where the epoch of the first records ends, which is not changed.
func (c *compacted) epochs(t *testing.T) {
	t.Helper()
	var req kadm.OffsetForLeaderEpochRequest
	req.Add("c", 0, 0)
	got, err := kadm.NewClient(c.cl).OffsetForLeaderEpoch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if e := got["c"][0]; e.Err != nil || e.LeaderEpoch != 0 || e.EndOffset != 601 {
		t.Errorf("epoch %d ends at %d (%v), want 601", e.LeaderEpoch, e.EndOffset, e.Err)
	}
}

// varve runs the CLI.
func varve(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), brokertest.Binary(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("varve %v: %v\n%s", args, err, out)
	}
	return string(out)
}
