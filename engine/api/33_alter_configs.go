package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterConfigs (33), versions 0 to 2: replaces all of a resource's settings;
// v2 flexible. The settings of one broker are those of all.
func (s *Server) alterConfigs(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.AlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	ctx, cancel := adminTimeout(ctx, 0)
	defer cancel()
	seen := make(map[resource]int, len(req.Resources))
	for i := range req.Resources {
		seen[resource{req.Resources[i].ResourceType, req.Resources[i].ResourceName}]++
	}
	for i := range req.Resources {
		res := &req.Resources[i]
		a := alteration{resource: resource{res.ResourceType, res.ResourceName}, replace: true, dry: req.ValidateOnly}
		for _, c := range res.Configs {
			a.changes = append(a.changes, change{c.Name, kmsg.IncrementalAlterConfigOpSet, c.Value})
		}
		row := kmsg.NewAlterConfigsResponseResource()
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
