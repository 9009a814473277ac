package api

import (
	"context"
	"slices"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// Broker is a broker as metadata names it.
type Broker = member.Broker

// brokers returns who serves; this broker where the catalogue knows nobody.
func (s *Server) brokers() []Broker {
	if all := s.o.Cluster().Brokers; len(all) > 0 {
		return all
	}
	return []Broker{s.o.Self}
}

// slotOf returns a partition's slot.
func slotOf(c *member.Cluster, t *catalog.Topic, p int32) kafka.Slot {
	return kafka.PartitionSlot(t.Name, p, c.Slots())
}

// leader returns the broker that leads a slot's partitions, or will after a
// takeover that is under way, and the epoch that the catalogue has; this broker where nobody else lives;
// -1 and LEADER_NOT_AVAILABLE where that broker has been silent for so long that it will soon be taken over from.
func (s *Server) leader(c *member.Cluster, slot kafka.Slot) (int32, int32, kafka.ErrorCode) {
	id, epoch := c.Leader(slot)
	if id >= 0 {
		return id, int32(epoch), kafka.None
	}
	if len(c.Brokers) == 0 {
		return s.o.Self.ID, int32(epoch), kafka.None
	}
	return -1, int32(epoch), kafka.LeaderNotAvailable
}

// replicas returns a slot's leader, and those that come next in ring order, up
// to the topic's replication factor: the object store keeps the copies, and each could take over.
func (s *Server) replicas(c *member.Cluster, slot kafka.Slot, t *catalog.Topic) []int32 {
	if ids := c.Replicas(slot, int(t.ReplicationFactor)); len(ids) > 0 {
		return ids
	}
	return []int32{s.o.Self.ID}
}

// elsewhere tells who leads a partition that is refused here because another
// broker does (KIP-951); nil where that is not known.
func (s *Server) elsewhere(t *catalog.Topic, p int32) (*wire.Leader, wire.Endpoint) {
	c := s.o.Cluster()
	id, epoch := c.Leader(slotOf(c, t, p))
	b, ok := c.Broker(id)
	if !ok || id == s.o.Self.ID {
		return nil, wire.Endpoint{}
	}
	return &wire.Leader{ID: id, Epoch: epoch}, wire.Endpoint{ID: b.ID, Host: b.Host, Port: b.Port, Rack: b.Rack}
}

func addEndpoint(all []wire.Endpoint, e wire.Endpoint) []wire.Endpoint {
	if slices.ContainsFunc(all, func(o wire.Endpoint) bool { return o.ID == e.ID }) {
		return all
	}
	return append(all, e)
}

// unlessFailed fills err into a row of an answer that has no error.
func unlessFailed(code *int16, message **string, err error) {
	if *code == 0 {
		*code, *message = told(err)
	}
}

// everywhere waits until all brokers act on what this request has changed.
func (s *Server) everywhere(ctx context.Context, changed bool) error {
	if !changed || s.o.Await == nil {
		return nil
	}
	if err := s.o.Await(ctx); err != nil {
		return refuse(kafka.RequestTimedOut, "The change is made; not all brokers have applied it yet.")
	}
	return nil
}
