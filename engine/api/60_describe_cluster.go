package api

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// DescribeCluster (60), versions 0 to 2 (KIP-700); v1 endpoint types, v2 fenced
// brokers (KIP-1073): those that are silent.
func (s *Server) describeCluster(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.ClusterAuthorizedOperations = math.MinInt32
	resp.EndpointType = req.EndpointType
	if r.Version >= 1 && req.EndpointType != 1 { // controllers (KIP-919): there are none to talk to
		resp.ErrorCode = int16(kafka.MismatchedEndpointType)
		resp.ErrorMessage = kmsg.StringPtr("The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
		return resp
	}
	resp.ClusterID, resp.ControllerID = s.o.ClusterID, s.o.Self.ID
	add := func(b Broker, fenced bool) {
		row := kmsg.NewDescribeClusterResponseBroker()
		row.NodeID, row.Host, row.Port, row.Rack, row.IsFenced = b.ID, b.Host, b.Port, rackOf(b), fenced
		resp.Brokers = append(resp.Brokers, row)
	}
	for _, b := range s.brokers() {
		add(b, false)
	}
	if req.IncludeFencedBrokers {
		for _, b := range s.o.Cluster().Silent {
			add(b, true)
		}
	}
	return resp
}
