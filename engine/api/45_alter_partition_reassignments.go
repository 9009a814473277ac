package api

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// AlterPartitionReassignments (45), versions 0 and 1 (KIP-455). Partitions
// have no replicas to move: what asks for the replicas that they have is done,
// anything else is refused.
func (s *Server) alterPartitionReassignments(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := req.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	topics := s.o.Catalog.Topics()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		out.Topic = t.Topic
		topic, _ := topics.ByName(t.Topic)
		for _, p := range t.Partitions {
			row := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			row.Partition = p.Partition
			row.ErrorCode, row.ErrorMessage = told(s.reassign(topic, p.Partition, p.Replicas))
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// reassign checks one reassignment; null replicas cancel one.
func (s *Server) reassign(t *catalog.Topic, partition int32, replicas []int32) error {
	switch {
	case t == nil || partition < 0 || partition >= t.Partitions:
		return missingTopic(false)
	case replicas == nil:
		return refuse(kafka.NoReassignmentInProgress, "No partition reassignment is in progress.")
	case len(replicas) == 0:
		return refuse(kafka.InvalidReplicaAssignment, "The manual partition assignment includes an empty replica list.")
	}
	c := s.o.Cluster()
	if slices.Equal(replicas, s.replicas(c, slotOf(c, t, partition), t)) {
		return nil
	}
	if err := s.checkReplicas(replicas); err != nil {
		return err
	}
	return refuse(kafka.InvalidReplicaAssignment, "Replicas are the leader and those that follow it by id; varve cluster move moves the leader.")
}
