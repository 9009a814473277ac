package api

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// The kinds of coordinators that there are here.
const (
	coordinatorGroup       = 0
	coordinatorTransaction = 1
)

const (
	offsetsTopic      = "__consumer_offsets"
	transactionsTopic = "__transaction_state"
	// offsetsTimeout bounds what a client waits for the offsets topic to be made.
	offsetsTimeout = 2 * time.Second
)

// FindCoordinator (10), versions 0 to 6; v1 types, v3 flexible, v4 several
// keys (KIP-699). Share groups (v6) are not served. As in Kafka the first group
// brings the topic __consumer_offsets; here it stays empty, offsets are in the catalogue.
func (s *Server) findCoordinator(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.FindCoordinatorRequest)
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	if req.CoordinatorType == coordinatorGroup {
		s.showOffsetsTopic(ctx)
	}
	if r.Version < 4 {
		b, code := s.coordinator(req.CoordinatorType, req.CoordinatorKey)
		resp.NodeID, resp.Host, resp.Port, resp.ErrorCode = b.ID, b.Host, b.Port, int16(code)
		return resp
	}
	for _, key := range req.CoordinatorKeys {
		b, code := s.coordinator(req.CoordinatorType, key)
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Host, c.Port, c.ErrorCode = key, b.ID, b.Host, b.Port, int16(code)
		resp.Coordinators = append(resp.Coordinators, c)
	}
	return resp
}

// coordinator returns the broker that coordinates a group: the owner of its
// slot, if it is there. Transactional ids have slots likewise.
func (s *Server) coordinator(kind int8, key string) (Broker, kafka.ErrorCode) {
	if kind != coordinatorGroup && kind != coordinatorTransaction {
		return Broker{ID: -1, Port: -1}, kafka.InvalidRequest
	}
	c := s.o.Cluster()
	id, _, code := s.leader(c, kafka.GroupSlot(key, c.Slots()))
	if code != kafka.None {
		return Broker{ID: -1, Port: -1}, kafka.CoordinatorNotAvailable
	}
	if b, ok := c.Broker(id); ok {
		return b, kafka.None
	}
	return s.o.Self, kafka.None
}

// showOffsetsTopic makes the topic that tools look for. Groups do without.
func (s *Server) showOffsetsTopic(ctx context.Context) {
	if _, ok := s.o.Catalog.Topics().ByName(offsetsTopic); ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, offsetsTimeout)
	defer cancel()
	topic := catalog.Topic{Name: offsetsTopic, Partitions: 1, ReplicationFactor: s.o.Config().DefaultReplicationFactor, Configs: map[string]string{"cleanup.policy": "compact"}}
	if err := s.create(ctx, topic); err != nil && !errors.Is(err, catalog.ErrExists) {
		s.o.Logger.Warn("create topic", "topic", offsetsTopic, "err", err)
	}
}
