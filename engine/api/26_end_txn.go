package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// EndTxn (26), versions 0 to 5 (KIP-98); v2 PRODUCER_FENCED, v3 flexible, v5 raises the
// producer's epoch (KIP-890).
func (s *Server) endTxn(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.EndTxn(ctx, r.msg.(*kmsg.EndTxnRequest))
}
