package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// AddPartitionsToTxn (24), versions 0 to 3 (KIP-98); v2 PRODUCER_FENCED, v3 flexible. From
// version 4 on it is between brokers; here they read the transaction themselves.
func (s *Server) addPartitionsToTxn(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.AddPartitionsToTxn(ctx, r.msg.(*kmsg.AddPartitionsToTxnRequest))
}
