package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// CreateAcls (30), versions 1 to 3 (KIP-140): there is no authorizer.
func (s *Server) createACLs(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.CreateACLsRequest)
	resp := req.ResponseKind().(*kmsg.CreateACLsResponse)
	for range req.Creations {
		resp.Results = append(resp.Results, kmsg.CreateACLsResponseResult{
			ErrorCode: int16(kafka.SecurityDisabled), ErrorMessage: kmsg.StringPtr(noAuthorizer),
		})
	}
	return resp
}
