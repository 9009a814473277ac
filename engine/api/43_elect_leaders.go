package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// ElectLeaders (43), versions 0 to 2: every partition has its leader.
func (s *Server) electLeaders(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.ElectLeadersRequest)
	resp := req.ResponseKind().(*kmsg.ElectLeadersResponse)
	topics := s.o.Catalog.Topics()
	for i := range req.Topics {
		out := kmsg.NewElectLeadersResponseTopic()
		out.Topic = req.Topics[i].Topic
		t, missing := lookup(topics, false, out.Topic, kafka.TopicID{})
		for _, p := range req.Topics[i].Partitions {
			row := kmsg.NewElectLeadersResponseTopicPartition()
			row.Partition = p
			code := missing
			if code == kafka.None {
				if code = kafka.ElectionNotNeeded; p < 0 || p >= t.Partitions {
					code = kafka.UnknownTopicOrPartition
				}
			}
			row.ErrorCode = int16(code)
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
