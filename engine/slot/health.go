package slot

import (
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

// Health is what an operator is told of a session.
type Health struct {
	Owned, Target int       // slots: held, and that should be
	Live          int       // sessions, as the catalogue's newest snapshot has them
	Renewed       time.Time // its own heartbeat, last; zero: not yet
	OldestPut     time.Time // since when what is not durable has waited; zero: nothing waits
	Backlog       float64   // WAL that waits to be trimmed, in parts of what may: at 1 produce is refused
	Dormant       int       // of the owned slots
	Lulls         int64     // times that a slot has become dormant
}

// Health returns the session's health of the moment.
func (m *Manager) Health() Health {
	c := m.o.View.Now()
	owned := m.Owned()
	h := Health{Owned: len(owned), Dormant: len(owned) - len(m.awake(owned)), Live: len(c.Live()), OldestPut: m.wal.OldestWaiting(), Backlog: m.keeper.backlog(0), Lulls: m.lulls.Load()}
	for s := range c.Slots() {
		if to, ok := c.Target(kafka.Slot(s)); ok && to == m.session.ID {
			h.Target++
		}
	}
	if at := m.renewed.Load(); at != nil {
		h.Renewed = *at
	}
	return h
}
