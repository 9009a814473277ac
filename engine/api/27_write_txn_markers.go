package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// WriteTxnMarkers (27), version 1: from other brokers, whose markers have more in a
// tagged field, and from administrators (KIP-664).
func (s *Server) writeTxnMarkers(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.WriteTxnMarkers(ctx, r.msg.(*kmsg.WriteTxnMarkersRequest))
}
