package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetCommit (8), versions 2 to 10; v5 no retention time, v6 leader epochs,
// v7 static members, v8 flexible, v10 topic ids. It answers when the offsets are in the catalogue.
func (s *Server) offsetCommit(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.OffsetCommit(ctx, r.msg.(*kmsg.OffsetCommitRequest))
}
