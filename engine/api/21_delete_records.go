package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// DeleteRecords (21), versions 0 to 2 (KIP-107); v2 flexible. Offset -1 is the high watermark.
// It answers when the new log start offset is durable.
func (s *Server) deleteRecords(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DeleteRecordsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	ctx, cancel := adminTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	topics := s.o.Catalog.Topics()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewDeleteRecordsResponseTopic()
		out.Topic = t.Topic
		topic, code := lookup(topics, false, t.Topic, kafka.TopicID{})
		for _, p := range t.Partitions {
			row := kmsg.NewDeleteRecordsResponseTopicPartition()
			row.Partition, row.LowWatermark = p.Partition, -1
			row.ErrorCode = int16(code)
			if code == kafka.None {
				low, err := s.deleteBefore(ctx, topic, p.Partition, kafka.Offset(p.Offset))
				row.LowWatermark, row.ErrorCode = int64(low), int16(codeOf(err))
			}
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (s *Server) deleteBefore(ctx context.Context, t *catalog.Topic, p int32, off kafka.Offset) (kafka.Offset, error) {
	l, code := s.log(ctx, t, p)
	if code != kafka.None {
		return -1, code
	}
	if cfg := l.Config(); cfg.Compact && !cfg.Delete {
		return -1, kafka.PolicyViolation
	}
	o := l.Offsets()
	if off == -1 {
		off = o.HighWatermark
	}
	if off < 0 || off > o.HighWatermark {
		return -1, kafka.OffsetOutOfRange
	}
	if off > o.LogStart {
		if err := s.o.SetLogStart(ctx, l, off); err != nil {
			return -1, err
		}
	}
	return l.Offsets().LogStart, nil
}
