package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeGroups (15), versions 0 to 6; v3 authorized operations, v4 static
// members, v5 flexible, v6 GROUP_ID_NOT_FOUND (KIP-1043).
func (s *Server) describeGroups(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Describe(ctx, r.msg.(*kmsg.DescribeGroupsRequest))
}
