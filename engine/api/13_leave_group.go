package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// LeaveGroup (13), versions 0 to 5; v3 several members (KIP-345), v4 flexible,
// v5 reason.
func (s *Server) leaveGroup(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Leave(ctx, r.msg.(*kmsg.LeaveGroupRequest))
}
