package wal

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/tiering/objstore/memstore"
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
		"soon after":                    {0, view{queued: 1, lastStart: at(ms / 4)}, true, 0},
		"soon after, crowded":           {0, view{queued: 1, lastStart: at(ms / 4), crowded: true}, false, ms * 55 / 100},
		"soon after, crowded, enough":   {0, view{queued: 100, lastStart: at(ms / 4), crowded: true}, true, 0},
		"later, crowded":                {0, view{queued: 1, lastStart: at(ms), crowded: true}, true, 0},
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

// TestFastStore: what comes alone leaves at once, what comes in crowds at most every 0.8 ms.
func TestFastStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: 250 * time.Microsecond}
		})
		w, result := running(t.Context(), Options{Store: store, Origin: session})
		a := newLog(1)
		puts := func(n int, every time.Duration) int64 {
			before := w.Position().Next
			for range n {
				if err := a.append(w, 100); err != nil {
					t.Fatal(err)
				}
				time.Sleep(every)
			}
			return w.Position().Next - before
		}
		if n := puts(100, 300*time.Microsecond); n != 100 {
			t.Errorf("%d PUTs of 100 batches that came one after the other", n)
		}
		if n := puts(1000, 100*time.Microsecond); n < 120 || n > 130 {
			t.Errorf("%d PUTs in 100 ms of a crowd", n)
		}
		if _, err := w.Close(t.Context()); err != nil || <-result != nil {
			t.Fatal(err)
		}
	})
}
