package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// OffsetForLeaderEpoch (23), versions 2 to 4 (KIP-101, KIP-320): where an epoch of a
// partition ended.
func (s *Server) offsetForLeaderEpoch(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.OffsetForLeaderEpochRequest)
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	topics := s.o.Catalog.Topics()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		topic, missing := lookup(topics, false, t.Topic, kafka.TopicID{})
		for _, p := range t.Partitions {
			row := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			row.Partition, row.LeaderEpoch, row.EndOffset = p.Partition, -1, -1
			code := missing
			if code == kafka.None {
				l, c := s.log(ctx, topic, p.Partition)
				if code = c; code == kafka.None {
					code = checkEpoch(p.CurrentLeaderEpoch, l.Epoch())
				}
				if code == kafka.None {
					epoch, end := l.EndOffsetForEpoch(kafka.LeaderEpoch(p.LeaderEpoch))
					row.LeaderEpoch, row.EndOffset = int32(epoch), int64(end)
				}
			}
			row.ErrorCode = int16(code)
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
