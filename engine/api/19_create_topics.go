package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	maxReplication = 3       // what is stored and reported; the object store keeps the copies
	maxPartitions  = 100_000 // of one topic
)

// refusal is an error with the message that the client is shown.
type refusal struct {
	code    kafka.ErrorCode
	message string
}

func (r *refusal) Error() string { return r.code.Error() + ": " + r.message }
func (r *refusal) Unwrap() error { return r.code }

func refuse(code kafka.ErrorCode, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// told returns an error's code and message for a response.
func told(err error) (int16, *string) {
	var r *refusal
	if errors.As(err, &r) {
		return int16(r.code), &r.message
	}
	code := codeOf(err)
	if code == kafka.None {
		return 0, nil
	}
	message := err.Error()
	return int16(code), &message
}

// adminTimeout bounds an administrative request by its own time, within reason.
func adminTimeout(ctx context.Context, ms int32) (context.Context, context.CancelFunc) {
	d := time.Duration(ms) * time.Millisecond
	if d <= 0 || d > 5*time.Minute {
		d = 30 * time.Second
	}
	return context.WithTimeout(ctx, d)
}

// CreateTopics (19), versions 2 to 7; v4 -1 for the defaults, v5 flexible and effective
// configs in the answer, v7 topic ids. It answers when all brokers know the topic.
func (s *Server) createTopics(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.CreateTopicsRequest)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	ctx, cancel := adminTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	seen := make(map[string]int, len(req.Topics))
	for i := range req.Topics {
		seen[req.Topics[i].Topic]++
	}
	var room wire.Room
	for i := range req.Topics {
		t := &req.Topics[i]
		row := kmsg.NewCreateTopicsResponseTopic()
		row.Topic, row.NumPartitions, row.ReplicationFactor = t.Topic, -1, -1
		switch {
		case seen[t.Topic] < 0: // was answered
			continue
		case seen[t.Topic] > 1:
			row.ErrorCode, row.ErrorMessage = told(refuse(kafka.InvalidRequest, "Duplicate topic name."))
		default:
			row.ErrorCode, row.ErrorMessage = told(s.createOne(ctx, t, &row, req.ValidateOnly))
			if !room.Take(len(row.Configs) * elementBytes) {
				row.Configs, row.ConfigErrorCode = nil, int16(kafka.InvalidRequest)
			}
		}
		seen[t.Topic] = -1
		resp.Topics = append(resp.Topics, row)
	}
	if err := s.everywhere(ctx, !req.ValidateOnly); err != nil {
		for i := range resp.Topics {
			unlessFailed(&resp.Topics[i].ErrorCode, &resp.Topics[i].ErrorMessage, err)
		}
	}
	return resp
}

func (s *Server) createOne(ctx context.Context, t *kmsg.CreateTopicsRequestTopic, row *kmsg.CreateTopicsResponseTopic, dry bool) error {
	topic, err := s.planTopic(t)
	if err != nil {
		return err
	}
	if dry {
		topic.ID = kafka.TopicID{}
	} else if err := s.createPlanned(ctx, topic); err != nil {
		return err
	}
	row.TopicID, row.NumPartitions, row.ReplicationFactor = topic.ID, topic.Partitions, topic.ReplicationFactor
	for _, e := range config.DescribeTopic(s.o.Config(), topic.Configs) {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly, c.Source = e.Name, &e.Value, e.ReadOnly, int8(e.Source)
		row.Configs = append(row.Configs, c)
	}
	return nil
}

// planTopic checks a request for a topic and fills in the defaults.
func (s *Server) planTopic(t *kmsg.CreateTopicsRequestTopic) (catalog.Topic, error) {
	topic := catalog.Topic{Name: t.Topic, Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor, Configs: map[string]string{}}
	if bad := badTopicName(t.Topic); bad != "" {
		return topic, refuse(kafka.InvalidTopicException, "%s", bad)
	}
	if _, ok := s.o.Catalog.Topics().ByName(t.Topic); ok {
		return topic, refuse(kafka.TopicAlreadyExists, "Topic '%s' already exists.", t.Topic)
	}
	if with, ok := s.o.Catalog.Topics().Collision(t.Topic); ok {
		return topic, collides(t.Topic, with)
	}
	if len(t.ReplicaAssignment) > 0 {
		if err := s.checkAssignment(t); err != nil {
			return topic, err
		}
		topic.Partitions, topic.ReplicationFactor = int32(len(t.ReplicaAssignment)), int16(len(t.ReplicaAssignment[0].Replicas))
	}
	if err := s.sizeTopic(&topic); err != nil {
		return topic, err
	}
	for _, c := range t.Configs {
		if c.Value == nil {
			return topic, refuse(kafka.InvalidConfig, "Null value not supported for topic configs: %s", c.Name)
		}
		topic.Configs[c.Name] = *c.Value
	}
	if err := config.ValidateTopic(topic.Configs); err != nil {
		return topic, refuse(kafka.InvalidConfig, "%s", err.Error())
	}
	rand.Read(topic.ID[:])
	return topic, nil
}

// sizeTopic fills in and checks the number of partitions and replicas.
func (s *Server) sizeTopic(t *catalog.Topic) error {
	cfg := s.o.Config()
	if t.Partitions == -1 {
		t.Partitions = cfg.NumPartitions
	}
	if t.ReplicationFactor == -1 {
		t.ReplicationFactor = cfg.DefaultReplicationFactor
	}
	switch {
	case t.Partitions <= 0:
		return refuse(kafka.InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
	case t.Partitions > maxPartitions:
		return refuse(kafka.InvalidPartitions, "Number of partitions is larger than %d.", maxPartitions)
	case t.ReplicationFactor <= 0:
		return refuse(kafka.InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value.")
	case t.ReplicationFactor > maxReplication:
		return refuse(kafka.InvalidReplicationFactor, "Unable to replicate the partition %d time(s): The target replication factor of %d cannot be reached because only %d broker(s) are registered or some brokers have all their log directories cordoned.", t.ReplicationFactor, t.ReplicationFactor, len(s.brokers()))
	}
	return nil
}

// checkAssignment checks a manual assignment of replicas, which says no more
// than how many there are to be.
func (s *Server) checkAssignment(t *kmsg.CreateTopicsRequestTopic) error {
	if t.NumPartitions != -1 {
		return refuse(kafka.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
	}
	if t.ReplicationFactor != -1 {
		return refuse(kafka.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
	}
	seen := make(map[int32]bool, len(t.ReplicaAssignment))
	for _, p := range t.ReplicaAssignment {
		if seen[p.Partition] {
			return refuse(kafka.InvalidReplicaAssignment, "Found multiple manual partition assignments for partition %d", p.Partition)
		}
		if seen[p.Partition] = true; p.Partition < 0 || int(p.Partition) >= len(t.ReplicaAssignment) {
			return refuse(kafka.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence")
		}
		if len(p.Replicas) == 0 {
			return refuse(kafka.InvalidReplicaAssignment, "The manual partition assignment includes an empty replica list.")
		}
		if err := s.checkReplicas(p.Replicas); err != nil {
			return err
		}
	}
	return nil
}

// checkReplicas checks one partition's part of a manual assignment.
func (s *Server) checkReplicas(replicas []int32) error {
	known := s.brokers()
	for i, id := range replicas {
		if !slices.ContainsFunc(known, func(b Broker) bool { return b.ID == id }) {
			return refuse(kafka.InvalidReplicaAssignment, "The manual partition assignment includes broker %d, but no such broker is registered.", id)
		}
		if slices.Contains(replicas[:i], id) {
			return refuse(kafka.InvalidReplicaAssignment, "The manual partition assignment includes the broker %d more than once.", id)
		}
	}
	return nil
}

func collides(name, with string) error {
	return refuse(kafka.InvalidTopicException, "Topic '%s' collides with existing topic: %s", name, with)
}

// create creates a topic with a new id and opens it here.
func (s *Server) create(ctx context.Context, t catalog.Topic) error {
	rand.Read(t.ID[:])
	return s.createPlanned(ctx, t)
}

func (s *Server) createPlanned(ctx context.Context, t catalog.Topic) error {
	_, err := s.o.Catalog.CreateTopic(ctx, t)
	var collision *catalog.CollisionError
	switch {
	case errors.Is(err, catalog.ErrExists):
		return errors.Join(refuse(kafka.TopicAlreadyExists, "Topic '%s' already exists.", t.Name), err)
	case errors.As(err, &collision):
		return errors.Join(collides(t.Name, collision.With), err)
	case err != nil:
		return err
	}
	return s.o.Reconcile(ctx)
}
