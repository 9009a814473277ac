package slot

import (
	"context"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

const (
	// arriveTimeout is how long a request waits for a slot that is on its way: longer than a
	// hand-over takes, and shorter than clients mind.
	arriveTimeout = 500 * time.Millisecond
	lookPause     = 40 * time.Millisecond // between two reads of the feed for what is on its way
	expectLimit   = 5 * time.Second       // for which it is read so often
)

// Arrives waits for a slot that is on its way here, or from here, and tells
// whether it is held. Who asks for a slot that is not here may know more than this
// broker: the feed is read before it is sent away.
func (m *Manager) Arrives(ctx context.Context, s kafka.Slot) bool {
	looked := false
	for {
		m.mu.Lock()
		_, held := m.slots[s]
		_, going := m.stopped[s]
		moved := m.moved
		m.mu.Unlock()
		if held {
			return true
		}
		changed := m.o.Catalog.Changed()
		if !going && !m.expects(s) {
			if looked || !m.lookAgain(ctx) {
				return false
			}
			looked = true
			continue
		}
		select {
		case <-moved:
		case <-changed:
		case <-m.done:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// expects tells whether a slot is this session's by what is known, or will be
// as soon as it is taken.
func (m *Manager) expects(s kafka.Slot) bool {
	c := m.o.View.Now()
	if o := c.Owner(s); o.Epoch >= 0 && c.Lives(o.Session) {
		return o.Session == m.session.ID
	}
	to, ok := c.Target(s)
	return ok && to == m.session.ID
}

// lookAgain reads the feed, unless that was just done.
func (m *Manager) lookAgain(ctx context.Context) bool {
	now := time.Now().UnixNano()
	last := m.looked.Load()
	if now-last < int64(lookPause) || !m.looked.CompareAndSwap(last, now) {
		return false
	}
	return m.o.Catalog.Refresh(ctx) == nil
}

// expectation is how long a session has waited for slots that others hand over to it.
type expectation struct{ since time.Time }

// look returns when to read the feed again, which is polled less often: soon
// while slots are on their way here, unless they have been for long.
func (e *expectation) look(coming bool) <-chan time.Time {
	if !coming {
		e.since = time.Time{}
		return nil
	}
	if e.since.IsZero() {
		e.since = time.Now()
	}
	if time.Since(e.since) > expectLimit {
		return nil
	}
	return time.After(lookPause)
}

// tell wakes up who waits for slots. mu is held.
func (m *Manager) tell() {
	close(m.moved)
	m.moved = make(chan struct{})
}
