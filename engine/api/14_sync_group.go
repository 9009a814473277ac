package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// SyncGroup (14), versions 0 to 5; v3 static members, v4 flexible, v5 protocol
// checks. It answers when the leader's assignment is in the catalogue.
func (s *Server) syncGroup(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Sync(ctx, r.msg.(*kmsg.SyncGroupRequest))
}
