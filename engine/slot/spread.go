package slot

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

const (
	samplePeriod = 10 * time.Second // of what slots are asked for
	stepSamples  = 6                // samples between two steps of balance by load
)

// spread measures what the session's slots are asked for, which its heartbeats
// tell, and, as the first on the ring of live sessions, has slots change places
// where that is uneven, until stop closes (nil) or ctx ends. That two take
// themselves for the first, or none does, only costs or saves moves.
func (m *Manager) spread(ctx context.Context, stop <-chan struct{}) error {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	rates := make(rates)
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-stop:
			return nil
		case <-tick.C:
		}
		load := rates.sample(m)
		m.load.Store(&load)
		if n%stepSamples != 0 {
			continue
		}
		if err := m.step(ctx); err != nil && ctx.Err() == nil {
			m.o.Logger.Warn("balance by load", "err", err)
		}
	}
}

// rates are what slots are asked for, bytes/s, halved with each sample that finds nothing.
type rates map[kafka.Slot]int64

func (r rates) sample(m *Manager) catalog.Load {
	for s := range r {
		r[s] /= 2
	}
	fresh := make(map[kafka.Slot]int64)
	for _, l := range m.set.All() {
		if n := l.TakeTraffic(); n > 0 {
			fresh[l.Slot()] += n
		}
	}
	for s, n := range fresh {
		r[s] += n / int64(samplePeriod/time.Second) / 2
	}
	maps.DeleteFunc(r, func(s kafka.Slot, n int64) bool {
		_, mine := m.Slot(s)
		return n == 0 || !mine
	})
	return member.NewLoad(r)
}

// step asks for what would make the brokers' loads more even, when nothing is on its way.
func (m *Manager) step(ctx context.Context) error {
	c := m.o.View.Now()
	live := c.Live()
	if len(live) < 2 || live[0] != m.session.ID || !c.Settled() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	beats, err := m.o.Catalog.Heartbeats(ctx)
	if err != nil {
		return err
	}
	load := make(map[catalog.SessionID]catalog.Load)
	for _, b := range beats {
		if slices.Contains(live, b.Session) {
			load[b.Session] = b.Load
		}
	}
	moves := c.Rebalance(load)
	if len(moves) == 0 && len(m.o.Catalog.Members().Placement().Moves) == 0 {
		return nil
	}
	m.o.Logger.Info("slots change places for balance", "moves", moves)
	err = m.o.Catalog.AlterPlacement(ctx, func(p *catalog.Placement) { p.Moves = moves })
	if errors.Is(err, catalog.ErrUnknown) {
		return nil // seen in the next step
	}
	return err
}
