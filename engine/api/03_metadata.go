package api

import (
	"context"
	"errors"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Metadata (3), versions 0 to 13.
//
//	v1 controller, null = all topics   v4 auto creation switch   v7 leader epochs   v9 flexible
//	v10 topic ids   v12 topics by id   v13 top-level error
//
// Leaders are named but for those that are silent (LEADER_NOT_AVAILABLE), and a topic that is named twice is told once. Asking for a topic that is not there creates it,
// where allowed; as in Kafka the first answer is UNKNOWN_TOPIC_OR_PARTITION and the
// topic appears on retry.
func (s *Server) metadata(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.MetadataRequest)
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	resp.ClusterID = &s.o.ClusterID
	resp.ControllerID = s.o.Self.ID
	resp.AuthorizedOperations = math.MinInt32
	for _, b := range s.brokers() {
		row := kmsg.NewMetadataResponseBroker()
		row.NodeID, row.Host, row.Port, row.Rack = b.ID, b.Host, b.Port, rackOf(b)
		resp.Brokers = append(resp.Brokers, row)
	}
	topics := s.o.Catalog.Topics()
	if req.Topics == nil || r.Version == 0 && len(req.Topics) == 0 {
		for _, t := range topics.All() {
			resp.Topics = append(resp.Topics, s.describeMetadata(t))
		}
		return resp
	}
	type named struct {
		id   kafka.TopicID
		name string
	}
	told := make(map[named]bool, len(req.Topics))
	for i := range req.Topics {
		t := &req.Topics[i]
		n := named{id: t.TopicID}
		if t.Topic != nil {
			n = named{name: *t.Topic}
		}
		if !told[n] {
			told[n] = true
			resp.Topics = append(resp.Topics, s.topicMetadata(ctx, topics, req, t))
		}
	}
	return resp
}

func rackOf(b Broker) *string {
	if b.Rack == "" {
		return nil
	}
	return &b.Rack
}

func (s *Server) topicMetadata(ctx context.Context, topics *catalog.Topics, req *kmsg.MetadataRequest, t *kmsg.MetadataRequestTopic) kmsg.MetadataResponseTopic {
	row := kmsg.NewMetadataResponseTopic()
	row.Topic, row.TopicID, row.AuthorizedOperations = t.Topic, t.TopicID, math.MinInt32
	if t.Topic == nil {
		if topic, ok := topics.ByID(t.TopicID); ok {
			return s.describeMetadata(topic)
		}
		row.ErrorCode = int16(kafka.UnknownTopicID)
		return row
	}
	if topic, ok := topics.ByName(*t.Topic); ok {
		return s.describeMetadata(topic)
	}
	row.ErrorCode = int16(kafka.UnknownTopicOrPartition)
	if badTopicName(*t.Topic) != "" {
		row.ErrorCode = int16(kafka.InvalidTopicException)
		return row
	}
	if s.o.Config().AutoCreateTopics && (req.Version < 4 || req.AllowAutoTopicCreation) {
		if code := s.autoCreate(ctx, *t.Topic); code != kafka.None {
			row.ErrorCode = int16(code)
		}
	}
	return row
}

// autoCreate creates a topic with the defaults.
func (s *Server) autoCreate(ctx context.Context, name string) kafka.ErrorCode {
	ctx, cancel := adminTimeout(ctx, 0)
	defer cancel()
	cfg := s.o.Config()
	err := s.create(ctx, catalog.Topic{Name: name, Partitions: cfg.NumPartitions, ReplicationFactor: cfg.DefaultReplicationFactor})
	var collision *catalog.CollisionError
	switch {
	case err == nil, errors.Is(err, catalog.ErrExists):
		return kafka.None
	case errors.As(err, &collision):
		return kafka.InvalidTopicException
	}
	s.o.Logger.Warn("create topic on demand", "topic", name, "err", err)
	return kafka.LeaderNotAvailable
}

func (s *Server) describeMetadata(t *catalog.Topic) kmsg.MetadataResponseTopic {
	row := kmsg.NewMetadataResponseTopic()
	row.Topic, row.TopicID, row.AuthorizedOperations = &t.Name, t.ID, math.MinInt32
	row.IsInternal = isInternal(t.Name)
	c := s.o.Cluster()
	for p := range t.Partitions {
		part := kmsg.NewMetadataResponseTopicPartition()
		part.Partition = p
		slot := slotOf(c, t, p)
		leader, epoch, code := s.leader(c, slot)
		part.Leader, part.LeaderEpoch, part.ErrorCode = leader, epoch, int16(code)
		part.Replicas, part.OfflineReplicas = s.replicas(c, slot, t), []int32{}
		part.ISR = part.Replicas
		row.Partitions = append(row.Partitions, part)
	}
	return row
}

// isInternal tells Kafka's own topics, whoever made them.
func isInternal(name string) bool {
	return name == offsetsTopic || name == transactionsTopic
}
