package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListGroups (16), versions 0 to 5; v3 flexible, v4 states (KIP-518), v5 types
// (KIP-848).
func (s *Server) listGroups(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.List(ctx, r.msg.(*kmsg.ListGroupsRequest))
}
