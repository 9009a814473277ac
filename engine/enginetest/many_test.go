package enginetest

import (
	"context"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// many is what so many partitions cost, with a record in each.
type many struct {
	partitions   int32
	heap         int64          // bytes, of two brokers of which all is dormant and what they have stored
	metadata     int            // bytes of an answer that names all
	metadataTime time.Duration  // of the real clock
	idle         map[string]int // calls in idleTime, without clients
	idleCPU      time.Duration  // processor time in it, of both brokers
	takeover     map[string]int // calls until the one that is left serves all
	takeoverTime time.Duration  // of the bubble's clock: a call takes some milliseconds
	takeoverCPU  time.Duration
}

const idleTime = 10 * time.Minute

// TestManyPartitions prints what partitions cost that are there and have nothing to do. Nothing is
// written or read for them, and a takeover reads as many objects and writes as often for
// many as for few; it asks the catalogue once for each that has a tail in no sealed segment, many at a time.
func TestManyPartitions(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand partitions")
	}
	few, some, lots := manyPartitions(t, 200), manyPartitions(t, 2000), manyPartitions(t, 10_000)
	for _, m := range []many{few, some, lots} {
		t.Logf("%d partitions on two brokers: %d MiB of heap; Metadata of all %d KiB, %s", m.partitions, m.heap>>20, m.metadata>>10, m.metadataTime.Round(time.Millisecond))
		t.Logf("%10s in idle %s: calls %v, %s of processor time", "", idleTime, m.idle, m.idleCPU.Round(time.Millisecond))
		t.Logf("%10s a takeover of half of them: calls %v, %s of the bubble's time, %s of processor time", "", m.takeover, m.takeoverTime.Round(time.Millisecond), m.takeoverCPU.Round(time.Millisecond))
	}
	each := (lots.heap - few.heap) / int64(lots.partitions-few.partitions)
	t.Logf("%d bytes of heap for each partition", each)
	if each > 2<<10 { // most of it is what is stored, and goroutines of the client that have ended
		t.Errorf("a partition takes %d bytes", each)
	}
	for _, op := range []string{"commit", "put", "delete", "list", "read", "get", "query"} {
		if a, b := few.idle[op], lots.idle[op]; b > a+a/10+20 {
			t.Errorf("when idle: %d %ss with %d partitions, %d with %d", a, op, few.partitions, b, lots.partitions)
		}
	}
	for _, op := range []string{"commit", "put", "delete", "list", "read"} {
		if a, b := few.takeover[op], lots.takeover[op]; b > 2*a+20 {
			t.Errorf("a takeover: %d %ss with %d partitions, %d with %d", a, op, few.partitions, b, lots.partitions)
		}
	}
	if n := lots.takeover["query"] - few.takeover["query"]; n > int(lots.partitions)*6/10 || lots.takeoverTime > 2*time.Second {
		t.Errorf("a takeover of %d partitions asks the catalogue %d times, and takes %s", lots.partitions/2, n, lots.takeoverTime)
	}
}

func manyPartitions(t *testing.T, partitions int32) (m many) {
	m.partitions = partitions
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := calmWorld(t, cancel, 2, nil)
		defer w.end()
		w.startAll(ctx)
		w.fillMany(ctx, &m)
		wait(ctx, 8*time.Minute) // checkpoints that are due are written, retention has looked at each partition, and all is dormant
		m.heap = heap()
		for _, p := range w.cluster.everybody() {
			if open := counted(p.metrics, "varve_partition_open"); open > 0 {
				t.Errorf("broker %d has %d partitions in memory that nobody asks for", p.id, open)
			}
		}
		from, cpu := w.cluster.faults.counted(), processorTime(t)
		wait(ctx, idleTime)
		m.idle, m.idleCPU = since(from, w.cluster.faults.counted()), processorTime(t)-cpu
		from, cpu = w.cluster.faults.counted(), processorTime(t)
		begin := time.Now()
		w.life(1).kill()
		w.readLast(ctx, partitions)
		m.takeover, m.takeoverTime, m.takeoverCPU = since(from, w.cluster.faults.counted()), time.Since(begin), processorTime(t)-cpu
	})
	return m
}

// fillMany makes a topic and writes a record to each of its partitions.
func (w *world) fillMany(ctx context.Context, m *many) {
	cl := w.producer(ctx)
	defer cl.Close()
	if err := createTopic(ctx, cl, "many", m.partitions, nil); err != nil {
		w.t.Fatal(err)
	}
	var records []*kgo.Record
	for p := range m.partitions {
		records = append(records, &kgo.Record{Topic: "many", Partition: p, Value: []byte("some bytes")})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	begin := processorTime(w.t)
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr("many")
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, cl.Client)
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != int(m.partitions) {
		w.t.Fatalf("metadata: %v", err)
	}
	m.metadata, m.metadataTime = len(resp.AppendTo(nil)), processorTime(w.t)-begin
}

// readLast waits until all partitions can be read again.
func (w *world) readLast(ctx context.Context, partitions int32) {
	cl := w.client()
	defer cl.Close()
	for limit := time.Now().Add(time.Minute); ; wait(ctx, 10*time.Millisecond) {
		listed, err := kadm.NewClient(cl.Client).ListEndOffsets(ctx, "many")
		ends := offsetsOf(listed)
		if err == nil && listed.Error() == nil && len(ends) == int(partitions) {
			for p, end := range ends {
				if end != 1 {
					w.t.Fatalf("partition %d ends at %d", p, end)
				}
			}
			return
		}
		if time.Now().After(limit) {
			w.t.Fatalf("list offsets: %v %v", err, listed.Error())
		}
	}
}

// heap returns the bytes that are reachable.
func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// since returns how many calls there were between two counts.
func since(from, to map[string]int) map[string]int {
	out := make(map[string]int)
	for op, n := range to {
		out[op] = n - from[op]
	}
	return out
}
