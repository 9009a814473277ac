package api

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// ListConfigResources (74), versions 0 and 1; v0 is of client metrics, which
// there are none of, v1 of any kind (KIP-1142).
func (s *Server) listConfigResources(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.ListConfigResourcesRequest)
	resp := req.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	if r.Version == 0 {
		return resp
	}
	kinds := req.ResourceTypes
	if len(kinds) == 0 {
		kinds = []int8{int8(kmsg.ConfigResourceTypeTopic), int8(kmsg.ConfigResourceTypeBroker)}
	}
	slices.Sort(kinds)
	for _, kind := range slices.Compact(kinds) {
		names, code := s.resources(kmsg.ConfigResourceType(kind))
		if code != kafka.None {
			resp.ErrorCode, resp.ConfigResources = int16(code), nil
			return resp
		}
		for _, name := range names {
			row := kmsg.NewListConfigResourcesResponseConfigResource()
			row.Name, row.Type = name, kind
			resp.ConfigResources = append(resp.ConfigResources, row)
		}
	}
	return resp
}

// resources returns the names of a kind's resources.
func (s *Server) resources(kind kmsg.ConfigResourceType) ([]string, kafka.ErrorCode) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		var names []string
		for _, t := range s.o.Catalog.Topics().All() {
			names = append(names, t.Name)
		}
		return names, kafka.None
	case kmsg.ConfigResourceTypeBroker:
		var ids []string
		for _, b := range s.brokers() {
			ids = append(ids, strconv.Itoa(int(b.ID)))
		}
		return ids, kafka.None
	case kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
		return nil, kafka.None
	}
	return nil, kafka.UnsupportedVersion
}
