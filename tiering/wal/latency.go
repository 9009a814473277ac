package wal

import (
	"slices"
	"sync"
	"time"
)

const (
	latencyWindow  = 256 // PUTs that the p99 looks back
	latencyLeast   = 64  // PUTs before there is one
	latencyRefresh = 16  // PUTs between two looks

	hedgeOf   = 20 // PUTs for each that is sent a second time: a store that gets slower is not asked for much more
	hedgeMost = 5  // second PUTs that a quiet while allows at once
)

// latencies is the running p99 of PUTs, and how many may be sent a second time. A nil one has none.
type latencies struct {
	mu   sync.Mutex
	ring []time.Duration
	next int
	n    int // since the last look
	at99 time.Duration
	room int // PUTs of hedgeOf for each second one
}

func (l *latencies) add(d time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room = min(l.room+1, hedgeMost*hedgeOf)
	if len(l.ring) < latencyWindow {
		l.ring = append(l.ring, d)
	} else {
		l.ring[l.next] = d
		l.next = (l.next + 1) % latencyWindow
	}
	if l.n++; l.n >= latencyRefresh && len(l.ring) >= latencyLeast {
		sorted := slices.Sorted(slices.Values(l.ring))
		l.n, l.at99 = 0, sorted[(len(sorted)*99)/100]
	}
}

// p99 returns false while too little is known.
func (l *latencies) p99() (time.Duration, bool) {
	if l == nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at99, l.at99 > 0
}

// again tells whether one more PUT may be sent a second time, and counts it.
func (l *latencies) again() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room < hedgeOf {
		return false
	}
	l.room -= hedgeOf
	return true
}
