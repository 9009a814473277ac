package api

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

const maxDescribed = 2000 // partitions in one answer (max.request.partition.size.limit)

// DescribeTopicPartitions (75), version 0 (KIP-966): topics by name in order, paged
// by a cursor. Without names: all topics.
func (s *Server) describeTopicPartitions(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeTopicPartitionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	left := int32(maxDescribed)
	if req.ResponsePartitionLimit > 0 {
		left = min(left, req.ResponsePartitionLimit)
	}
	snapshot := s.o.Catalog.Topics()
	for _, name := range describedNames(req, snapshot) {
		var from int32
		if req.Cursor != nil {
			if name < req.Cursor.Topic {
				continue
			}
			if name == req.Cursor.Topic {
				from = max(req.Cursor.Partition, 0)
			}
		}
		if left <= 0 {
			resp.NextCursor = cursorAt(name, from)
			break
		}
		row, next := s.describeTopic(snapshot, name, from, left)
		left -= int32(len(row.Partitions))
		resp.Topics = append(resp.Topics, row)
		if next >= 0 {
			resp.NextCursor = cursorAt(name, next)
			break
		}
	}
	return resp
}

func cursorAt(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, partition
	return &c
}

func describedNames(req *kmsg.DescribeTopicPartitionsRequest, snapshot *catalog.Topics) []string {
	var names []string
	for i := range req.Topics {
		names = append(names, req.Topics[i].Topic)
	}
	if len(names) == 0 {
		for _, t := range snapshot.All() {
			names = append(names, t.Name)
		}
	}
	slices.SortFunc(names, strings.Compare)
	return slices.Compact(names)
}

// describeTopic describes up to limit partitions; next is where to go on, -1: all are in.
func (s *Server) describeTopic(snapshot *catalog.Topics, name string, from, limit int32) (row kmsg.DescribeTopicPartitionsResponseTopic, next int32) {
	row = kmsg.NewDescribeTopicPartitionsResponseTopic()
	row.Topic, row.AuthorizedOperations = &name, math.MinInt32
	t, ok := snapshot.ByName(name)
	if !ok {
		row.ErrorCode = int16(kafka.UnknownTopicOrPartition)
		if badTopicName(name) != "" {
			row.ErrorCode = int16(kafka.InvalidTopicException)
		}
		return row, -1
	}
	row.TopicID, row.IsInternal = t.ID, isInternal(name)
	c := s.o.Cluster()
	for p := from; p < t.Partitions; p++ {
		if p-from >= limit {
			return row, p
		}
		part := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		part.Partition = p
		slot := slotOf(c, t, p)
		leader, epoch, code := s.leader(c, slot)
		part.LeaderID, part.LeaderEpoch, part.ErrorCode = leader, epoch, int16(code)
		part.Replicas, part.OfflineReplicas = s.replicas(c, slot, t), []int32{}
		part.ISR = part.Replicas
		part.EligibleLeaderReplicas, part.LastKnownELR = []int32{}, []int32{} // the Java client takes null for an error
		row.Partitions = append(row.Partitions, part)
	}
	return row, -1
}
