package api

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// DeleteTopics (20), versions 1 to 6; v4 flexible, v5 messages, v6 by name or id.
// The records are unreachable when it answers, and on which topics there are it
// asks the catalogue: a topic that is missing is so everywhere. Their objects go later.
func (s *Server) deleteTopics(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DeleteTopicsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	ctx, cancel := adminTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	topics := req.Topics
	for _, name := range req.TopicNames {
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = &name
		topics = append(topics, t)
	}
	for i := range topics {
		row := kmsg.NewDeleteTopicsResponseTopic()
		row.Topic, row.TopicID = topics[i].Topic, topics[i].TopicID
		row.ErrorCode, row.ErrorMessage = told(s.deleteOne(ctx, &row))
		resp.Topics = append(resp.Topics, row)
	}
	if err := s.everywhere(ctx, true); err != nil {
		for i := range resp.Topics {
			if row := &resp.Topics[i]; row.ErrorCode == 0 || isMissing(row.ErrorCode) { // by an earlier attempt, it may be
				row.ErrorCode, row.ErrorMessage = told(err)
			}
		}
	}
	return resp
}

func (s *Server) deleteOne(ctx context.Context, row *kmsg.DeleteTopicsResponseTopic) error {
	if !s.o.Config().DeleteTopicEnable {
		return refuse(kafka.TopicDeletionDisabled, "Topic deletion is disabled.")
	}
	if row.Topic == nil && row.TopicID == (kafka.TopicID{}) {
		return refuse(kafka.InvalidRequest, "Neither topic name nor id were specified.")
	}
	if err := s.o.Catalog.Refresh(ctx); err != nil { // whoever is told that a topic is gone relies on it
		return err
	}
	t := s.topicOf(row)
	byID := row.Topic == nil
	if t == nil {
		return missingTopic(byID)
	}
	row.Topic, row.TopicID = &t.Name, t.ID
	if err := s.o.Catalog.DeleteTopic(ctx, t.Name, t.ID); err != nil {
		if errors.Is(err, catalog.ErrNotFound) {
			return missingTopic(byID)
		}
		return err
	}
	return s.o.Reconcile(ctx)
}

// topicOf returns the topic that a row names, in the newest snapshot; nil: none.
func (s *Server) topicOf(row *kmsg.DeleteTopicsResponseTopic) (t *catalog.Topic) {
	if row.Topic != nil {
		t, _ = s.o.Catalog.Topics().ByName(*row.Topic)
	} else {
		t, _ = s.o.Catalog.Topics().ByID(row.TopicID)
	}
	return t
}

// isMissing tells missingTopic's answers.
func isMissing(code int16) bool {
	return code == int16(kafka.UnknownTopicID) || code == int16(kafka.UnknownTopicOrPartition)
}

func missingTopic(byID bool) error {
	if byID {
		return refuse(kafka.UnknownTopicID, "This server does not host this topic ID.")
	}
	return refuse(kafka.UnknownTopicOrPartition, "This server does not host this topic-partition.")
}
