package api

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// CreatePartitions (37), versions 0 to 3 (KIP-195); v2 flexible. It answers when
// all brokers know the partitions.
func (s *Server) createPartitions(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	ctx, cancel := adminTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	for i := range req.Topics {
		t := &req.Topics[i]
		row := kmsg.NewCreatePartitionsResponseTopic()
		row.Topic = t.Topic
		row.ErrorCode, row.ErrorMessage = told(s.addPartitions(ctx, t.Topic, t.Count, req.ValidateOnly))
		resp.Topics = append(resp.Topics, row)
	}
	if err := s.everywhere(ctx, !req.ValidateOnly); err != nil {
		for i := range resp.Topics {
			unlessFailed(&resp.Topics[i].ErrorCode, &resp.Topics[i].ErrorMessage, err)
		}
	}
	return resp
}

func (s *Server) addPartitions(ctx context.Context, name string, n int32, dry bool) error {
	t, ok := s.o.Catalog.Topics().ByName(name)
	switch {
	case !ok:
		return missingTopic(false)
	case n == t.Partitions:
		return refuse(kafka.InvalidPartitions, "Topic already has %d partition(s).", n)
	case n < t.Partitions:
		return refuse(kafka.InvalidPartitions, "The topic %s currently has %d partition(s); %d would not be an increase.", name, t.Partitions, n)
	case n > maxPartitions:
		return refuse(kafka.InvalidPartitions, "Number of partitions is larger than %d.", maxPartitions)
	case dry:
		return nil
	}
	if err := s.o.Catalog.AddPartitions(ctx, name, n); err != nil {
		if errors.Is(err, catalog.ErrPartitions) {
			return refuse(kafka.InvalidPartitions, "Topic already has %d partition(s) or more.", n)
		}
		return err
	}
	return s.o.Reconcile(ctx)
}
