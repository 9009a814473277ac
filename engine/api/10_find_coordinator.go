package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// The kinds of coordinators that there are here.
const (
	coordinatorGroup       = 0
	coordinatorTransaction = 1
)

// FindCoordinator (10), versions 0 to 6; v1 types, v3 flexible, v4 several
// keys (KIP-699). Share groups (v6) are not served.
func (s *Server) findCoordinator(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.FindCoordinatorRequest)
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	b, code := s.coordinator(req.CoordinatorType)
	if r.Version < 4 {
		resp.NodeID, resp.Host, resp.Port, resp.ErrorCode = b.ID, b.Host, b.Port, int16(code)
		return resp
	}
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Host, c.Port, c.ErrorCode = key, b.ID, b.Host, b.Port, int16(code)
		resp.Coordinators = append(resp.Coordinators, c)
	}
	return resp
}

// coordinator returns the broker that coordinates: this one coordinates all.
func (s *Server) coordinator(kind int8) (Broker, kafka.ErrorCode) {
	if kind == coordinatorGroup || kind == coordinatorTransaction {
		return s.o.Self, kafka.None
	}
	return Broker{ID: -1, Port: -1}, kafka.InvalidRequest
}
