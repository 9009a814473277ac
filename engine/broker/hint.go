package broker

import (
	"context"

	"github.com/varvelog/varve/engine/peer"
)

// hint tells the other brokers of what this one has changed in the catalogue, until ctx ends.
func (b *Broker) hint(ctx context.Context) error {
	if b.peers == nil {
		return nil
	}
	h := peer.Hints{Pool: b.peers, Change: b.catalog.LastMade}
	defer h.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.catalog.Made():
			h.Tell(ctx, b.others())
		}
	}
}

// others returns the addresses of the other brokers, also of those that somebody ends: they may not know it.
func (b *Broker) others() (addrs []string) {
	members := b.catalog.Members()
	for _, s := range append(members.Live(), members.Fenced()...) {
		if s.ID.Broker != b.o.Self.ID && s.Addr != "" {
			addrs = append(addrs, s.Addr)
		}
	}
	return addrs
}
