package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteGroups (42), versions 0 to 2 (KIP-229); v2 flexible.
func (s *Server) deleteGroups(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Delete(ctx, r.msg.(*kmsg.DeleteGroupsRequest))
}
