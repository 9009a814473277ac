package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// metadataTopic is the name of Kafka's own log of metadata.
const metadataTopic = "__cluster_metadata"

// DescribeQuorum (55), versions 0 to 2 (KIP-595, KIP-853). There is no quorum;
// for the tools that ask, the broker that answers leads one of itself.
func (s *Server) describeQuorum(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeQuorumRequest)
	resp := req.ResponseKind().(*kmsg.DescribeQuorumResponse)
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewDescribeQuorumResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			row := kmsg.NewDescribeQuorumResponseTopicPartition()
			row.Partition, row.LeaderID = p.Partition, -1
			if t.Topic != metadataTopic || p.Partition != 0 {
				row.ErrorCode = int16(kafka.UnknownTopicOrPartition)
			} else {
				voter := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
				voter.ReplicaID = s.o.Self.ID
				row.LeaderID = s.o.Self.ID
				row.CurrentVoters = append(row.CurrentVoters, voter)
			}
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
