package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// JoinGroup (11), versions 0 to 9; v1 rebalance timeout, v4 MEMBER_ID_REQUIRED
// (KIP-394), v5 static members (KIP-345), v6 flexible, v8 reason, v9 skip
// assignment. It answers when the group has a new generation.
func (s *Server) joinGroup(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Join(ctx, r.msg.(*kmsg.JoinGroupRequest), r.clientID(), r.conn.host)
}
