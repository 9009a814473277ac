package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments (46), version 0: none is ever under way.
func (*Server) listPartitionReassignments(_ context.Context, r *request) kmsg.Response {
	return r.msg.ResponseKind()
}
