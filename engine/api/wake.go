package api

import (
	"context"
	"iter"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// wake waits a moment until those of the partitions are open that are dormant here, all together.
func (s *Server) wake(ctx context.Context, parts iter.Seq2[*catalog.Topic, int32]) {
	if s.o.Wake == nil {
		return
	}
	s.o.Wake(ctx, func(yield func(kafka.Slot) bool) {
		c := s.o.Cluster()
		for t, p := range parts {
			_, open := s.o.Logs.Peek(kafka.TopicPartition{Topic: t.ID, Partition: p})
			if !open && !yield(slotOf(c, t, p)) {
				return
			}
		}
	})
}
