package api

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// pidBlock is how many producer ids are reserved in the catalogue at a time.
const pidBlock = 1000

// producerIDs hands out producer ids from a reserved block.
type producerIDs struct {
	mu         sync.Mutex
	next, last int64         // [next, last) is left
	refill     chan struct{} // closed when the reservation under way ends; nil: none is
}

// take returns the next id, or a channel to wait on, or that the caller is to reserve.
func (p *producerIDs) take() (id int64, wait chan struct{}, reserve bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.next < p.last:
		p.next++
		return p.next - 1, nil, false
	case p.refill != nil:
		return 0, p.refill, false
	}
	p.refill = make(chan struct{})
	return 0, nil, true
}

func (p *producerIDs) reserved(first, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > 0 {
		p.next, p.last = first, first+n
	}
	close(p.refill)
	p.refill = nil
}

// InitProducerId (22), versions 0 to 5 (KIP-98, KIP-360): a new producer id with
// epoch 0 for an idempotent producer. Transactional ids are refused.
func (s *Server) initProducerID(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.InitProducerIDRequest)
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = int16(kafka.UnsupportedVersion)
		if *req.TransactionalID == "" {
			resp.ErrorCode = int16(kafka.InvalidRequest)
		}
		return resp
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	id, err := s.producerID(ctx)
	if err != nil {
		s.o.Logger.Warn("reserve producer ids", "err", err)
		resp.ErrorCode = int16(kafka.CoordinatorNotAvailable) // retriable
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}

func (s *Server) producerID(ctx context.Context) (int64, error) {
	for {
		id, wait, reserve := s.pids.take()
		switch {
		case reserve:
			first, err := s.o.Catalog.ProducerIDBlock(ctx, pidBlock)
			if err != nil {
				s.pids.reserved(0, 0)
				return 0, err
			}
			s.pids.reserved(first, pidBlock)
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		default:
			return id, nil
		}
	}
}
