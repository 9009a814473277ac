package wal

import (
	"testing"
	"time"
)

func TestPolicy(t *testing.T) {
	const ms = time.Millisecond
	now := time.Unix(1000, 0)
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	for name, c := range map[string]struct {
		interval time.Duration
		v        view
		flush    bool
		wait     time.Duration
	}{
		"nothing queued":                {0, view{urgent: true}, false, 0},
		"idle":                          {0, view{queued: 1}, true, 0},
		"one in flight":                 {0, view{queued: 99, inFlight: 1}, false, 0},
		"one in flight, enough":         {0, view{queued: 100, inFlight: 1}, true, 0},
		"one in flight, urgent":         {0, view{queued: 1, inFlight: 1, urgent: true}, true, 0},
		"full":                          {0, view{queued: 1000, inFlight: 4, urgent: true}, false, 0},
		"interval, first":               {100 * ms, view{queued: 1}, true, 0},
		"interval, soon after":          {100 * ms, view{queued: 1, lastStart: at(30 * ms)}, false, 70 * ms},
		"interval, soon after, enough":  {100 * ms, view{queued: 100, lastStart: at(30 * ms)}, true, 0},
		"interval, over":                {100 * ms, view{queued: 1, lastStart: at(100 * ms)}, true, 0},
		"interval, over, one in flight": {100 * ms, view{queued: 1, inFlight: 1, lastStart: at(200 * ms)}, true, 0},
		"interval, one in flight":       {100 * ms, view{queued: 1, inFlight: 1, lastStart: at(20 * ms)}, false, 80 * ms},
		"interval, soon after, hasty":   {100 * ms, view{queued: 1, lastStart: at(10 * ms), hasty: true}, false, 15 * ms},
		"interval, full":                {100 * ms, view{queued: 1, inFlight: 4, lastStart: at(200 * ms)}, false, 0},
	} {
		p := policy{interval: c.interval, flushBytes: 100, inFlight: 4}
		if flush, wait := p.next(now, c.v); flush != c.flush || wait != c.wait {
			t.Errorf("%s: %v, wait %v; want %v, %v", name, flush, wait, c.flush, c.wait)
		}
	}
}

func TestLatencies(t *testing.T) {
	l := &latencies{}
	for i := range latencyLeast - 1 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	if _, ok := l.p99(); ok {
		t.Error("a p99 of too few")
	}
	for i := range 10 * latencyWindow {
		l.add(time.Duration(i%100+1) * time.Millisecond)
	}
	if d, ok := l.p99(); !ok || d < 98*time.Millisecond || d > 100*time.Millisecond {
		t.Errorf("p99 of 1 to 100 ms is %v", d)
	}
}
