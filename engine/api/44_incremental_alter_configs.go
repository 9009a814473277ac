package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// IncrementalAlterConfigs (44), versions 0 and 1 (KIP-339): changes settings
// one by one; v1 flexible.
func (s *Server) incrementalAlterConfigs(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.IncrementalAlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	ctx, cancel := adminTimeout(ctx, 0)
	defer cancel()
	seen := make(map[resource]int, len(req.Resources))
	for i := range req.Resources {
		seen[resource{req.Resources[i].ResourceType, req.Resources[i].ResourceName}]++
	}
	for i := range req.Resources {
		res := &req.Resources[i]
		a := alteration{resource: resource{res.ResourceType, res.ResourceName}, dry: req.ValidateOnly}
		for _, c := range res.Configs {
			a.changes = append(a.changes, change{c.Name, c.Op, c.Value})
		}
		row := kmsg.NewIncrementalAlterConfigsResponseResource()
		row.ResourceType, row.ResourceName = res.ResourceType, res.ResourceName
		row.ErrorCode, row.ErrorMessage = told(s.alter(ctx, a, seen))
		resp.Resources = append(resp.Resources, row)
	}
	if err := s.everywhere(ctx, !req.ValidateOnly); err != nil {
		for i := range resp.Resources {
			unlessFailed(&resp.Resources[i].ErrorCode, &resp.Resources[i].ErrorMessage, err)
		}
	}
	return resp
}
