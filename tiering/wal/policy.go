package wal

import "time"

// hastyPart is how many times more PUTs there may be in Hasten's while.
const hastyPart = 4

// crowdedSpacing is the least time between two PUTs to a store that answers faster, while there is
// something waiting when one ends: what more of them would cost the machine makes all of them slower.
const crowdedSpacing = 800 * time.Microsecond

// policy decides when an object is cut. It is self-clocking: with nothing in
// flight the next object leaves at once, in crowds at most one each crowdedSpacing, and
// while one is, batches gather, so objects grow as the store gets slower or the load higher.
type policy struct {
	interval   time.Duration
	flushBytes int64
	inFlight   int
}

// view is what the policy looks at.
type view struct {
	queued    int64     // bytes
	inFlight  int       // PUTs
	lastStart time.Time // of the newest PUT
	crowded   bool      // something waited when the last PUT ended
	urgent    bool      // somebody waits in Flush or Close
	hasty     bool      // Hasten's while is not over
}

// next says whether to cut an object now and, if not, after what time to ask
// again; 0 is when something has changed.
func (p policy) next(now time.Time, v view) (flush bool, wait time.Duration) {
	switch {
	case v.queued == 0 || v.inFlight >= p.inFlight:
		return false, 0
	case v.urgent || v.queued >= p.flushBytes:
		return true, 0
	case v.inFlight > 0 && p.interval == 0:
		return false, 0 // the end of the PUT in flight is the clock
	}
	interval := p.interval
	if v.hasty {
		interval /= hastyPart
	}
	if v.crowded {
		interval = max(interval, crowdedSpacing)
	}
	wait = interval - now.Sub(v.lastStart)
	return wait <= 0, max(wait, 0)
}
