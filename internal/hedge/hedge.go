// Package hedge makes a call a second time when the first takes longer than
// nearly all did before, and takes what is answered first. A store that gets slower as a
// whole makes every call late, so a second one has to be earned by twenty that were answered.
package hedge

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	window  = 256 // calls that the p99 looks back
	least   = 64  // calls before there is one
	refresh = 16  // calls between two looks

	earned = 20 // calls for each that is made a second time: a store that gets slower is not asked for much more
	most   = 5  // second calls that a quiet while allows at once
)

// Calls are calls of one kind: the running p99 of what they take, and how many may be made a second
// time. The zero value is ready. All methods are safe for concurrent use.
type Calls struct {
	Second func() // is called at each second call; nil: nothing

	mu   sync.Mutex
	ring []time.Duration
	next int
	n    int // since the last look
	at99 time.Duration
	room int // answered calls, earned of them for each second one

	running sync.WaitGroup
}

// Wait waits until calls that were not waited for have ended, which they do when their context does.
func (c *Calls) Wait() {
	if c != nil {
		c.running.Wait()
	}
}

// Do makes a call, and the same once more beside it when that has not been answered in the time of nearly all
// before. It returns the first answer whose error counts, else the last one, and whether the call was made twice. The
// other call's context is cancelled then; what it does all the same must do no harm. With nil Calls there is one call.
func Do[T any](ctx context.Context, c *Calls, counts func(error) bool, call func(context.Context) (T, error)) (got T, twice bool, err error) {
	start := time.Now()
	after, ok := c.p99()
	if !ok {
		got, err = call(ctx)
		c.add(start, counts(err))
		return got, false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		got T
		err error
	}
	answers := make(chan answer, 2)
	begin := func() {
		c.running.Go(func() {
			got, err := call(ctx)
			answers <- answer{got, err}
		})
	}
	begin()
	timer := time.NewTimer(after)
	defer timer.Stop()
	for running := 1; running > 0; {
		select {
		case <-timer.C:
			if c.again() {
				begin()
				running++
				twice = true
			}
		case a := <-answers:
			if got, err = a.got, a.err; counts(err) {
				c.add(start, true)
				return got, twice, err
			}
			running--
		}
	}
	return got, twice, err
}

// add takes in what a call took whose answer counts.
func (c *Calls) add(start time.Time, counts bool) {
	if c == nil || !counts {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = min(c.room+1, most*earned)
	d := time.Since(start)
	if len(c.ring) < window {
		c.ring = append(c.ring, d)
	} else {
		c.ring[c.next] = d
		c.next = (c.next + 1) % window
	}
	if c.n++; c.n >= refresh && len(c.ring) >= least {
		sorted := slices.Sorted(slices.Values(c.ring))
		c.n, c.at99 = 0, sorted[(len(sorted)*99)/100]
	}
}

// p99 returns false while too little is known.
func (c *Calls) p99() (time.Duration, bool) {
	if c == nil {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at99, c.at99 > 0
}

// again tells whether one more call may be made a second time, and counts it.
func (c *Calls) again() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room < earned {
		return false
	}
	c.room -= earned
	if c.Second != nil {
		c.Second()
	}
	return true
}
