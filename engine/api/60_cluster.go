package api

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// DescribeCluster (60), versions 0 to 2 (KIP-700).
func (s *Server) describeCluster(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.ClusterAuthorizedOperations = math.MinInt32
	resp.EndpointType = req.EndpointType
	if req.EndpointType == 2 { // controllers (KIP-919): there are none to talk to
		resp.ErrorCode = int16(kafka.MismatchedEndpointType)
		return resp
	}
	resp.ClusterID, resp.ControllerID = s.o.ClusterID, s.o.Self.ID
	b := kmsg.NewDescribeClusterResponseBroker()
	b.NodeID, b.Host, b.Port, b.Rack = s.o.Self.ID, s.o.Self.Host, s.o.Self.Port, rackOf(s.o.Self)
	resp.Brokers = append(resp.Brokers, b)
	return resp
}

// ListPartitionReassignments (46), version 0: none is ever under way.
func (s *Server) listPartitionReassignments(_ context.Context, r *request) kmsg.Response {
	return r.msg.ResponseKind()
}

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
				if _, code = s.log(t, p); code == kafka.None {
					code = kafka.ElectionNotNeeded
				}
			}
			row.ErrorCode = int16(code)
			out.Partitions = append(out.Partitions, row)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
