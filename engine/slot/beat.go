package slot

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/wal"
)

// soon is the least time between two renewals: those that tell others
// something do not wait for the interval.
const soon = 20 * time.Millisecond

// heart renews the session's heartbeat and watches the others'. Beat's
// goroutine owns it.
type heart struct {
	m      *Manager
	beat   catalog.Heartbeat
	watch  member.Watch
	probes *probes
}

// look makes beat renew and look at once, where there is anybody to tell.
func (m *Manager) look() {
	if len(m.o.View.Now().Live()) < 2 {
		return
	}
	select {
	case m.renew <- struct{}{}:
	default:
	}
}

// beat renews the heartbeat each interval, and as soon as there is something to
// tell, and looks at the others' twice as often, so that a counter is taken to
// stand still from soon behind its last renewal; until stop closes (nil), the session is found
// ended (wal.ErrFenced) or ctx ends. Whom it suspects it tells own.
func (m *Manager) beat(ctx context.Context, stop <-chan struct{}) error {
	cfg := m.o.Config()
	h := heart{
		m: m, beat: catalog.Heartbeat{Session: m.session.ID},
		watch: member.Watch{Self: m.session.ID, Timeout: cfg.SessionTimeout}, probes: newProbes(m),
	}
	defer h.probes.stop()
	tick := time.NewTicker(cfg.HeartbeatInterval / 2)
	defer tick.Stop()
	for renew := true; ; renew = !renew {
		err := h.once(ctx, renew)
		if errors.Is(err, catalog.ErrFenced) && !m.left.Load() {
			return wal.ErrFenced
		}
		if err != nil && ctx.Err() == nil {
			m.o.Logger.Warn("heartbeat", "err", err)
			m.silent(nil) // that is not known now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-stop:
			return nil
		case <-tick.C:
			continue
		case <-h.overdue():
			continue
		case <-m.renew:
			renew = false // then the next one does
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(soon):
		}
	}
}

// overdue returns what tells when a session will have stood still for long
// enough: not to wait for the next tick then makes a takeover up to an interval faster.
func (h *heart) overdue() <-chan time.Time {
	now := time.Now()
	at := h.watch.Due(now)
	if at.IsZero() {
		return nil
	}
	return time.After(at.Sub(now))
}

// renewing renews the heartbeat each interval while do runs, which is what comes
// before beat: slow stores make it take longer than the session timeout. Whom others
// end all the same, do finds out.
func (m *Manager) renewing(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(m.o.Config().HeartbeatInterval)
		defer tick.Stop()
		for h := (catalog.Heartbeat{Session: m.session.ID}); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			call, cancel := context.WithTimeout(ctx, m.o.Config().SessionTimeout)
			next, err := m.o.Catalog.Renew(call, h)
			cancel()
			if err != nil && ctx.Err() == nil {
				m.o.Logger.Warn("heartbeat", "err", err)
			}
			h = next
		}
	})
	err := do()
	cancel()
	wg.Wait()
	return err
}

// once renews the own heartbeat, if it should, reads the others' and suspects.
func (h *heart) once(ctx context.Context, renew bool) error {
	m := h.m
	ctx, cancel := context.WithTimeout(ctx, m.o.Config().SessionTimeout)
	defer cancel()
	live := m.o.View.Now().Live()
	seen := h.probes.look(ctx, member.Peers(live, m.session.ID))
	for id, refused := range seen {
		h.watch.Refused(id, refused)
	}
	if oldest := m.wal.OldestWaiting(); renew && (oldest.IsZero() || time.Since(oldest) < m.o.Config().SessionTimeout) {
		h.beat.Applied, h.beat.WALNext, h.beat.Refused = m.applied.Load(), m.wal.Position().Next, h.watch.Refusing()
		if load := m.load.Load(); load != nil {
			h.beat.Load = *load
		}
		next, err := m.o.Catalog.Renew(ctx, h.beat)
		h.beat = next
		if err != nil {
			return err
		}
		now := time.Now()
		h.watch.Renewed(now)
		m.renewed.Store(&now)
	}
	if len(live) < 2 {
		return nil
	}
	all, err := m.o.Catalog.Heartbeats(ctx)
	if err != nil {
		return err
	}
	beats := make(map[catalog.SessionID]member.Beat, len(all))
	c := m.o.View.Now()
	for _, b := range all {
		beats[b.Session] = member.Beat{Counter: b.Counter, Leaving: c.Leaves(b.Session), Refused: b.Refused}
	}
	now := time.Now()
	suspects := h.watch.Observe(now, c.Live(), beats)
	m.silent(h.watch.Silent(now))
	if len(suspects) == 0 {
		return nil
	}
	m.o.Logger.Warn("sessions are suspected", "sessions", suspects)
	select {
	case m.suspects <- suspects:
	default: // own is busy; they will be suspected again
	}
	return nil
}

// silent has clients sent to others than these sessions.
func (m *Manager) silent(sessions []catalog.SessionID) {
	if m.o.View.Silent(sessions) {
		m.o.Logger.Warn("clients are not sent to silent sessions", "sessions", sessions)
	}
}
