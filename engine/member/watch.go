package member

import (
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// minReads is over how many of the watcher's own successful reads a counter
// must stand still.
const minReads = 5

// Beat is a session's heartbeat as it was read.
type Beat struct {
	Counter int64
	Leaving bool                // it hands over what it has, and may close its listener
	Refused []catalog.SessionID // those whose connections this session sees refused
}

// Watch suspects sessions that are no longer there. A suspicion says that
// fencing is worth trying, no more.
//
// A session is suspected when its counter stood still over at least five
// successful reads, for the timeout since it is taken to have changed, and the watcher's own renewal
// succeeded meanwhile; all of that begins anew when the watcher could not look for half the timeout: what
// kept it from that may have kept the others from renewing; or when it refuses connections, as seen by two
// watchers, or by one where there is no other. Who suspects more than a third
// of its peers, and more than one, rather suspects itself: it waits for
// twice the timeout, and then gives up on one at a time.
//
// Time comes in with the events; nothing here reads a clock.
type Watch struct {
	Self    catalog.SessionID
	Timeout time.Duration

	renewed time.Time // the watcher's own newest renewal
	looked  time.Time // when Observe was last called
	spared  time.Time // when it last gave up on one of many
	peers   map[catalog.SessionID]*peer
}

// peer is what was seen of a session.
type peer struct {
	counter int64
	since   time.Time // when the counter became what it is, as far as looks tell
	reads   int       // that found it so again
	refused bool      // connections, after they had been accepted
	leaving bool
}

// Renewed tells that the watcher's own heartbeat was renewed.
func (w *Watch) Renewed(now time.Time) { w.renewed = now }

// Refused tells whether a session refuses connections now. Only one that had
// accepted one before should be said to.
func (w *Watch) Refused(id catalog.SessionID, refused bool) {
	if p := w.peers[id]; p != nil {
		p.refused = refused
	}
}

// Refusing returns the sessions that are seen to refuse connections.
func (w *Watch) Refusing() []catalog.SessionID {
	var out []catalog.SessionID
	for id, p := range w.peers {
		if p.refused {
			out = append(out, id)
		}
	}
	return ring(out)
}

// Observe takes in one successful read of the live sessions' heartbeats, and
// returns those that the watcher should fence now, in ring order. A live session
// without a heartbeat counts as one that stands still.
func (w *Watch) Observe(now time.Time, live []catalog.SessionID, beats map[catalog.SessionID]Beat) []catalog.SessionID {
	w.take(now, live, beats)
	var dead []catalog.SessionID
	for id, p := range w.peers {
		if w.stalled(now, p, w.Timeout) || w.gone(id, beats) {
			dead = append(dead, id)
		}
	}
	if w.many(dead) {
		return w.patient(now, dead)
	}
	watched := Peers(live, w.Self)
	return slices.DeleteFunc(ring(dead), func(id catalog.SessionID) bool { return !slices.Contains(watched, id) })
}

// Silent returns the sessions that have stood still for two thirds of the timeout, in ring
// order. Nobody fences them for it; but clients need not be sent to them: what they ask of a process that is
// stopped, whose port still takes connections, they wait for until their own timeouts, when it has long been taken
// over from. Where they are many the watcher rather suspects itself, as above.
func (w *Watch) Silent(now time.Time) []catalog.SessionID {
	var ids []catalog.SessionID
	for id, p := range w.peers {
		if !p.leaving && w.still(now, p, 2*w.Timeout/3) {
			ids = append(ids, id)
		}
	}
	if w.many(ids) {
		return nil
	}
	return ring(ids)
}

// many tells whether so many are suspected that it is rather the watcher who is to blame.
func (w *Watch) many(ids []catalog.SessionID) bool { return len(ids) > 1 && 3*len(ids) > len(w.peers) }

// Due returns when the next session will have stood still for the timeout, if
// it goes on so; the zero time where none will. A read then finds out at once.
func (w *Watch) Due(now time.Time) (at time.Time) {
	for _, p := range w.peers {
		if due := p.since.Add(w.Timeout); due.After(now) && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	return at
}

func (w *Watch) take(now time.Time, live []catalog.SessionID, beats map[catalog.SessionID]Beat) {
	if w.peers == nil {
		w.peers = make(map[catalog.SessionID]*peer)
	}
	for id := range w.peers {
		if !slices.Contains(live, id) {
			delete(w.peers, id)
		}
	}
	changed := w.between(now)
	if now.Sub(w.looked) >= w.Timeout/2 { // who could not look did not see them stand still
		for _, p := range w.peers {
			p.since, p.reads = now, 0
		}
	}
	w.looked = now
	for _, id := range live {
		if id == w.Self {
			continue
		}
		b, ok := beats[id]
		if !ok {
			b.Counter = -1
		}
		p := w.peers[id]
		if p == nil {
			p = &peer{counter: b.Counter, since: now}
			w.peers[id] = p
		} else if p.counter == b.Counter {
			p.reads++
		} else {
			p.counter, p.since, p.reads = b.Counter, changed, 0
		}
		p.leaving = b.Leaving
	}
}

// between returns when a change is taken to have happened that is seen now: half-way
// since the last look, unless that is long ago, as for a watcher that has slept.
func (w *Watch) between(now time.Time) time.Time {
	if ago := now.Sub(w.looked); ago < w.Timeout/6 {
		return now.Add(-ago / 2)
	}
	return now
}

// still tells whether a counter has stood still for so long, while the watcher's own was renewed.
func (w *Watch) still(now time.Time, p *peer, long time.Duration) bool {
	return now.Sub(p.since) >= long && w.renewed.After(p.since)
}

// stalled is still, as seen by enough reads.
func (w *Watch) stalled(now time.Time, p *peer, timeout time.Duration) bool {
	return p.reads >= minReads && w.still(now, p, timeout)
}

// gone tells whether enough watchers see a session refuse connections: two, or
// one where all others are seen to refuse them as well.
func (w *Watch) gone(id catalog.SessionID, beats map[catalog.SessionID]Beat) bool {
	p := w.peers[id]
	if !p.refused || p.leaving {
		return false
	}
	others, seen := 0, 0
	for q, other := range w.peers {
		if q == id || other.refused {
			continue
		}
		others++
		if slices.Contains(beats[q].Refused, id) {
			seen++
		}
	}
	return others == 0 || seen > 0
}

// patient chooses from many suspects the one that has stood still longest,
// if that was for twice the timeout and none was chosen for one timeout.
func (w *Watch) patient(now time.Time, dead []catalog.SessionID) []catalog.SessionID {
	if now.Sub(w.spared) < w.Timeout {
		return nil
	}
	var oldest catalog.SessionID
	found := false
	for _, id := range ring(dead) {
		p := w.peers[id]
		if w.stalled(now, p, 2*w.Timeout) && (!found || p.since.Before(w.peers[oldest].since)) {
			oldest, found = id, true
		}
	}
	if !found {
		return nil
	}
	w.spared = now
	return []catalog.SessionID{oldest}
}
