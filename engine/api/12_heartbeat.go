package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Heartbeat (12), versions 0 to 4; v3 static members, v4 flexible.
func (s *Server) heartbeat(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Heartbeat(ctx, r.msg.(*kmsg.HeartbeatRequest))
}
