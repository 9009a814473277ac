package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetDelete (47), version 0 (KIP-496).
func (s *Server) offsetDelete(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.OffsetDelete(ctx, r.msg.(*kmsg.OffsetDeleteRequest))
}
