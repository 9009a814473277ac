package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// DescribeProducers (61), version 0 (KIP-664).
func (s *Server) describeProducers(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeProducersRequest)
	resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
	topics := s.o.Catalog.Topics()
	var room wire.Room
	for i := range req.Topics {
		out := kmsg.NewDescribeProducersResponseTopic()
		out.Topic = req.Topics[i].Topic
		t, missing := lookup(topics, false, out.Topic, kafka.TopicID{})
		for _, p := range req.Topics[i].Partitions {
			row := kmsg.NewDescribeProducersResponseTopicPartition()
			row.Partition = p
			code := missing
			if code == kafka.None {
				l, c := s.log(ctx, t, p)
				if code = c; code == kafka.None {
					row.ActiveProducers = activeProducers(l)
				}
			}
			if !room.Take(len(row.ActiveProducers) * elementBytes) {
				code, row.ActiveProducers = kafka.InvalidRequest, nil
				row.ErrorMessage = kmsg.StringPtr("The answer would be too large: ask for fewer partitions at once.")
			}
			row.ErrorCode = int16(code)
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func activeProducers(l *partition.Log) (active []kmsg.DescribeProducersResponseTopicPartitionActiveProducer) {
	for _, pr := range l.Producers() {
		a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		a.ProducerID, a.ProducerEpoch, a.LastTimestamp = pr.ID, int32(pr.Epoch), pr.LastTimestamp
		a.LastSequence, a.CoordinatorEpoch, a.CurrentTxnStartOffset = -1, pr.CoordEpoch, int64(pr.TxnFirstOffset)
		if n := len(pr.Batches); n > 0 {
			a.LastSequence = pr.Batches[n-1].LastSeq
		}
		active = append(active, a)
	}
	return active
}
