package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/record"
)

// goal is what there is to read until the ends that the partitions had in the
// beginning. It is empty when all of it has been read.
type goal struct {
	cl    *kgo.Client
	group string // "": none
	left  map[string]map[int32]*span
}

// span is what is left of a partition.
type span struct{ next, end int64 }

// idle is how long nothing comes until one looks who else has read it, and whether
// any records are left.
const idle = time.Second

// lookBytes is how much of a partition one looks at then, but for one batch.
const lookBytes = 64 << 10

// newGoal returns what there is to read of topics from a place on, or where a group stands.
func newGoal(ctx context.Context, cl *kgo.Client, topics []string, from place, f *consumeFlags) (*goal, error) {
	adm := kadm.NewClient(cl)
	list := adm.ListEndOffsets
	if f.committed {
		list = adm.ListCommittedOffsets
	}
	ends, err := list(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	starts, err := listAt(ctx, adm, from, topics)
	if err != nil {
		return nil, err
	}
	var committed kadm.OffsetResponses
	if f.group != "" {
		if committed, err = adm.FetchOffsets(ctx, f.group); err != nil {
			return nil, err
		}
	}
	g := &goal{cl: cl, group: f.group, left: make(map[string]map[int32]*span)}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		s := &span{start.Offset, o.Offset}
		if c, ok := committed.Lookup(o.Topic, o.Partition); ok && c.At >= 0 {
			s.next = c.At
		}
		if s.next >= s.end || f.partition >= 0 && o.Partition != f.partition {
			return
		}
		if g.left[o.Topic] == nil {
			g.left[o.Topic] = make(map[int32]*span)
		}
		g.left[o.Topic][o.Partition] = s
	})
	return g, nil
}

// reached tells that a partition was read up to next.
func (g *goal) reached(topic string, partition int32, next int64) {
	s, ok := g.left[topic][partition]
	if !ok {
		return
	}
	if s.next = max(s.next, next); s.next < s.end {
		return
	}
	if delete(g.left[topic], partition); len(g.left[topic]) == 0 {
		delete(g.left, topic)
	}
}

// poll polls. Where nothing comes, other members of the group may have read it,
// or compaction has left no records at the end.
func (g *goal) poll(ctx context.Context) (kgo.Fetches, error) {
	short, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	fetches := g.cl.PollFetches(short)
	if short.Err() == nil || ctx.Err() != nil || fetches.NumRecords() > 0 {
		return fetches, nil
	}
	if g.group != "" {
		committed, err := kadm.NewClient(g.cl).FetchOffsets(ctx, g.group)
		if err != nil {
			return nil, err
		}
		committed.Each(func(o kadm.OffsetResponse) { g.reached(o.Topic, o.Partition, o.At) })
	}
	return nil, g.look(ctx)
}

// look asks for what is left of each partition. The client moves on over batches
// without records, and does not say so. A partition whose leader can't be asked
// now is asked when nothing has come for a while again; what fails for
// longer the client's own fetches tell.
func (g *goal) look(ctx context.Context) error {
	topics, err := kadm.NewClient(g.cl).Metadata(ctx, slices.Collect(maps.Keys(g.left))...)
	if err != nil {
		return err
	}
	topics.Topics.EachPartition(func(p kadm.PartitionDetail) {
		if s, ok := g.left[p.Topic][p.Partition]; ok && p.Err == nil {
			g.reached(p.Topic, p.Partition, passed(g.fetch(ctx, topics.Topics[p.Topic].ID, p, s.next), s.next))
		}
	})
	return ctx.Err()
}

// fetch returns batches from an offset on, as they are; none where they can't be had.
func (g *goal) fetch(ctx context.Context, id kadm.TopicID, p kadm.PartitionDetail, from int64) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.SessionEpoch = -1, lookBytes, -1
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = p.Partition, from, lookBytes
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID, topic.Partitions = p.Topic, id, []kmsg.FetchRequestTopicPartition{part}
	req.Topics = []kmsg.FetchRequestTopic{topic}
	got, err := req.RequestWith(ctx, g.cl.Broker(int(p.Leader)))
	if err != nil || len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 {
		return nil
	}
	return got.Topics[0].Partitions[0].RecordBatches
}

// passed returns the first offset from next on that batches have a record at, or else
// the one behind them.
func passed(batches []byte, next int64) int64 {
	for b, err := range record.Split(batches) {
		if err != nil { // a broker may cut the last one off
			break
		}
		h, err := record.ParseHeader(b)
		if err != nil {
			break
		}
		for r, err := range record.Records(b, record.MaxDecompressed) {
			if err != nil {
				return next // the client's to tell
			}
			if off := int64(h.OffsetOf(&r)); off >= next {
				return off
			}
		}
		next = max(next, int64(h.LastOffset())+1)
	}
	return next
}
