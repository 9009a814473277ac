package txn

import (
	"context"
	"sync"
)

// idBlock is how many producer ids are reserved in the catalogue at a time.
const idBlock = 1000

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

// producerID returns an id that nobody else is given.
func (c *Coordinator) producerID(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	for {
		id, wait, reserve := c.ids.take()
		switch {
		case reserve:
			first, err := c.o.Catalog.ProducerIDBlock(ctx, idBlock)
			if err != nil {
				c.ids.reserved(0, 0)
				return 0, err
			}
			c.ids.reserved(first, idBlock)
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
