package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetFetch (9), versions 1 to 10; v2 all topics, v5 leader epochs, v6
// flexible, v7 require stable, v8 several groups, v10 topic ids.
func (s *Server) offsetFetch(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.OffsetFetch(ctx, r.msg.(*kmsg.OffsetFetchRequest))
}
