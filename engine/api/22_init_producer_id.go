package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (22), versions 0 to 5 (KIP-98, KIP-360): a new producer id with
// epoch 0 for an idempotent producer; for a transactional id, from its coordinator, its
// producer's id and next epoch.
func (s *Server) initProducerID(ctx context.Context, r *request) kmsg.Response {
	return s.o.Txns.InitProducerID(ctx, r.msg.(*kmsg.InitProducerIDRequest))
}
