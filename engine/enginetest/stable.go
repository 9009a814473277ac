package enginetest

import (
	"context"
	"time"
)

// pledge is an offset that a transaction took with it before an event, and has committed.
type pledge struct {
	taken int
	next  int64
}

// told is a stable offset that was asked for behind one event and told before another.
type told struct {
	asked, answered int
	next            int64
}

// stable is what was pledged and told of a partition's offset.
type stable struct {
	pledges []pledge
	told    []told
}

// event returns the number of what a client does now, in the order of all that clients do.
func (w *world) event() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events++
	return w.events
}

// pledged notes that a transaction that took an offset before an event is committed.
func (w *world) pledged(p int32, taken int, next int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stable[p].pledges = append(w.stable[p].pledges, pledge{taken, next})
}

// watchStable asks for the stable offsets of movers until ctx ends, as a consumer does that has
// got the partition and asks no transactional id for its epoch (KIP-447): only what it is told keeps it
// from reading what a transaction that is about to be committed has read.
func (w *world) watchStable(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	for ; ctx.Err() == nil; wait(ctx, w.dice.upTo("stable", 200*time.Millisecond)) {
		p := int32(w.dice.below("stable", partitions))
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		asked := w.event()
		next, err := w.movedUpTo(call, cl, p)
		answered := w.event()
		cancel()
		if err == nil {
			w.mu.Lock()
			w.stable[p].told = append(w.stable[p].told, told{asked, answered, next})
			w.mu.Unlock()
		}
	}
}

// checkStableOffsets sees to it that what was told was never less than what a committed transaction
// had taken before it was asked for, nor than what had been told before. Movers and watcher have ended.
func (w *world) checkStableOffsets(context.Context) {
	for p, s := range w.stable {
		for _, t := range s.told {
			for _, e := range s.pledges {
				if e.taken < t.asked && e.next > t.next {
					w.report("stable offset of partition %d: %d was told, a transaction that is committed had taken %d before that was asked for", p, t.next, e.next)
				}
			}
			for _, e := range s.told {
				if e.answered < t.asked && e.next > t.next {
					w.report("stable offset of partition %d: %d was told, and then %d", p, e.next, t.next)
				}
			}
		}
	}
}
