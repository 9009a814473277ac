package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TxnOffsetCommit (28), versions 0 to 5 (KIP-98); v2 leader epochs, v3 flexible and
// the member (KIP-447), v5 enters the group into the transaction (KIP-890).
func (s *Server) txnOffsetCommit(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.TxnOffsetCommit(ctx, r.msg.(*kmsg.TxnOffsetCommitRequest))
}
