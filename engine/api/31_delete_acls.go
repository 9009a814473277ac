package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// DeleteAcls (31), versions 1 to 3 (KIP-140): there is no authorizer.
func (s *Server) deleteACLs(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DeleteACLsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteACLsResponse)
	for range req.Filters {
		resp.Results = append(resp.Results, kmsg.DeleteACLsResponseResult{
			ErrorCode: int16(kafka.SecurityDisabled), ErrorMessage: kmsg.StringPtr(noAuthorizer),
		})
	}
	return resp
}
