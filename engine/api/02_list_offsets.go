package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// ListOffsets (2), versions 1 to 11.
//
//	v2 isolation level   v4 leader epochs   v6 flexible   v7 -3 max timestamp (KIP-734)
//	v8 -4 earliest local (KIP-405)   v9 -5 latest tiered (KIP-1005)   v10 timeout (KIP-1075)   v11 -6 earliest pending upload (KIP-1023)
func (s *Server) listOffsets(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.ListOffsetsRequest)
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	ctx, cancel := adminTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	topics := s.o.Catalog.Topics()
	s.wake(ctx, func(yield func(*catalog.Topic, int32) bool) {
		for _, t := range req.Topics {
			topic, missing := lookup(topics, false, t.Topic, kafka.TopicID{})
			for i := 0; missing == kafka.None && i < len(t.Partitions); i++ {
				if !yield(topic, t.Partitions[i].Partition) {
					return
				}
			}
		}
	})
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		topic, missing := lookup(topics, false, t.Topic, kafka.TopicID{})
		for _, p := range t.Partitions {
			row := kmsg.NewListOffsetsResponseTopicPartition()
			row.Partition, row.Offset, row.Timestamp, row.LeaderEpoch = p.Partition, -1, -1, -1
			err := error(missing)
			if missing == kafka.None {
				err = s.listOffset(ctx, req, topic, &p, &row)
			}
			row.ErrorCode = int16(codeOf(err))
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (s *Server) listOffset(ctx context.Context, req *kmsg.ListOffsetsRequest, t *catalog.Topic, p *kmsg.ListOffsetsRequestTopicPartition, row *kmsg.ListOffsetsResponseTopicPartition) error {
	l, code := s.log(ctx, t, p.Partition)
	if code == kafka.None {
		code = checkEpoch(p.CurrentLeaderEpoch, l.Epoch())
	}
	if code == kafka.None && p.Timestamp < 0 && !listable(p.Timestamp, req.Version) {
		code = kafka.UnsupportedVersion
	}
	if code != kafka.None {
		return code
	}
	off, ts, epoch, err := l.ListOffset(ctx, p.Timestamp, kafka.Isolation(req.IsolationLevel))
	if err != nil {
		return err
	}
	row.Offset, row.Timestamp, row.LeaderEpoch = int64(off), ts, int32(epoch)
	return nil
}

// listable tells whether a version of the request knows a special timestamp.
func listable(ts int64, version int16) bool {
	switch ts {
	case -1, -2:
		return true
	case -3:
		return version >= 7
	case -4:
		return version >= 8
	case -5:
		return version >= 9
	case -6:
		return version >= 11
	}
	return false
}
