package enginetest

import (
	"context"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// TestBalanceByLoad reads two partitions of one broker busily: one of them
// goes elsewhere, another slot comes for it, and then nothing moves any more.
func TestBalanceByLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := calmWorld(t, cancel, 3, nil)
		defer w.end()
		w.startAll(ctx)
		wait(ctx, 20*time.Second) // slots are even
		cl := w.producer(ctx, kgo.ProducerBatchCompression(kgo.NoCompression()))
		defer cl.Close()
		if err := createTopic(ctx, cl, "busy", 12, nil); err != nil {
			t.Fatal(err)
		}
		first := w.leaders(ctx, cl)
		var busy []int32 // two partitions of one broker
		for p := int32(1); p < 12 && len(busy) == 0; p++ {
			if first[p] == first[0] {
				busy = []int32{0, p}
			}
		}
		for _, p := range busy {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "busy", Partition: p, Value: []byte(strings.Repeat("x", 900<<10))}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		id, err := topicID(ctx, cl, "busy")
		if err != nil {
			t.Fatal(err)
		}
		now := first
		read := func(limit time.Duration, until func() bool) {
			for end := time.Now().Add(limit); time.Now().Before(end) && !until(); wait(ctx, 300*time.Millisecond) {
				now = w.leaders(ctx, cl)
				for _, p := range busy {
					fetchOnce(ctx, cl, id, p, now[p])
				}
			}
		}
		read(5*time.Minute, func() bool { return now[busy[0]] != now[busy[1]] })
		if now[busy[0]] == now[busy[1]] {
			t.Fatalf("partitions %v are both with %d still", busy, now[busy[0]])
		}
		read(time.Minute, func() bool { return false }) // both slots of the pair have arrived
		owners := w.owners()
		read(5*time.Minute, func() bool { return false })
		if again := w.owners(); !maps.Equal(owners, again) {
			t.Error("slots go on moving")
		}
		count := make(map[int32]int)
		for _, id := range owners {
			count[id]++
		}
		for id, n := range count {
			if n < 85 || n > 86 {
				t.Errorf("broker %d has %d slots", id, n)
			}
		}
	})
}

func (w *world) leaders(ctx context.Context, cl *client) map[int32]int32 {
	all := make(map[int32]int32)
	insist(ctx, func() error {
		m, err := kadm.NewClient(cl.Client).Metadata(ctx, "busy")
		for _, p := range m.Topics["busy"].Partitions {
			all[p.Partition] = p.Leader
		}
		return err
	})
	return all
}

// fetchOnce reads a partition from its beginning; that it moves is no error.
func fetchOnce(ctx context.Context, cl *client, id kadm.TopicID, p, leader int32) {
	req := kmsg.NewPtrFetchRequest()
	req.SessionEpoch, req.MaxBytes = -1, 2<<20
	topic := kmsg.NewFetchRequestTopic()
	topic.TopicID = kafka.TopicID(id)
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.PartitionMaxBytes = p, 2<<20
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	_, _ = cl.Broker(int(leader)).Request(ctx, req)
}
