package enginetest

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// mark is what a client knows of a partition: the newest leader epoch that it has heard of,
// the largest high watermark that it was told, and what that was when the epoch began.
type mark struct {
	epoch        int32
	high, before int64
}

// watchMarks asks brokers, whoever leads, where partitions of keptTopic end,
// as a consumer in their rack that knows the leader epoch (KIP-320, KIP-392), until
// ctx ends. Whoever answers is the leader of that epoch or has asked it, so no answer
// is less than an earlier one; who has been left behind refuses.
func (w *world) watchMarks(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	to := make(map[int32]*kgo.Broker) // whatever Metadata says of it
	for _, id := range w.ids {
		one := w.client(kgo.SeedBrokers(hostOf(id) + ":9092"))
		defer one.Close()
		to[id] = one.SeedBrokers()[0]
	}
	var marks [partitions]mark
	for ; ctx.Err() == nil; wait(ctx, 100*time.Millisecond+w.dice.upTo("marks", 600*time.Millisecond)) {
		p := int32(w.dice.below("marks", partitions))
		m := &marks[p]
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		w.learnEpoch(call, cl, p, m)
		id := w.ids[w.dice.below("marks", len(w.ids))]
		if high, ok := w.askMark(call, to[id], id, p, m); ok {
			if high < m.high {
				w.report("partition %d: broker %d says in epoch %d that it ends at %d, %d was said before", p, id, m.epoch, high, m.high)
			}
			w.isDurable(fmt.Sprint("broker ", id), p, high)
			m.high = max(m.high, high)
		}
		cancel()
	}
}

func (w *world) learnEpoch(ctx context.Context, cl *client, p int32, m *mark) {
	meta, err := kadm.NewClient(cl.Client).Metadata(ctx, keptTopic)
	if err != nil {
		return
	}
	if d, ok := meta.Topics[keptTopic].Partitions[p]; ok && d.LeaderEpoch > m.epoch {
		m.epoch, m.before = d.LeaderEpoch, m.high
	}
}

// askMark asks one broker for the high watermark of a partition.
func (w *world) askMark(ctx context.Context, to *kgo.Broker, id, p int32, m *mark) (high int64, ok bool) {
	req := kmsg.NewPtrFetchRequest()
	req.SessionEpoch, req.MaxBytes, req.Rack = -1, 1, w.cluster.rackOf(id)
	topic := kmsg.NewFetchRequestTopic()
	topic.TopicID = w.kept
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.PartitionMaxBytes, part.CurrentLeaderEpoch = p, 1, m.epoch
	part.FetchOffset = []int64{m.before, m.high}[w.dice.below("marks", 2)]
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	answer, err := to.Request(ctx, req)
	if err != nil {
		return 0, false
	}
	resp := answer.(*kmsg.FetchResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, false
	}
	row := resp.Topics[0].Partitions[0]
	return row.HighWatermark, kafka.ErrorCode(row.ErrorCode) == kafka.None
}
