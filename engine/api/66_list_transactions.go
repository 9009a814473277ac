package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListTransactions (66), versions 0 to 2 (KIP-664, KIP-994, KIP-1152).
func (s *Server) listTransactions(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.List(ctx, r.msg.(*kmsg.ListTransactionsRequest))
}
