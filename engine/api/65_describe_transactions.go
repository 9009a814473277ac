package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTransactions (65), version 0 (KIP-664).
func (s *Server) describeTransactions(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.Describe(ctx, r.msg.(*kmsg.DescribeTransactionsRequest))
}
