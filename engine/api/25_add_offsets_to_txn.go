package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// AddOffsetsToTxn (25), versions 0 to 4 (KIP-98); v2 PRODUCER_FENCED, v3 flexible.
func (s *Server) addOffsetsToTxn(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.AddOffsetsToTxn(ctx, r.msg.(*kmsg.AddOffsetsToTxnRequest))
}
