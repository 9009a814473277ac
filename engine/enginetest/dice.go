package enginetest

import (
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"
)

// dice decides all that a seed decides. Each kind of decision has a stream of
// its own, so that one call more or less moves only its own kind's fates.
type dice struct {
	seed uint64

	mu      sync.Mutex
	streams map[string]*rand.Rand
}

func newDice(seed uint64) *dice { return &dice{seed: seed, streams: make(map[string]*rand.Rand)} }

// below returns a number in [0, n).
func (d *dice) below(stream string, n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.streams[stream]
	if r == nil {
		h := fnv.New64a()
		_, _ = h.Write([]byte(stream))
		r = rand.New(rand.NewPCG(d.seed, h.Sum64()))
		d.streams[stream] = r
	}
	return r.IntN(n)
}

// oneIn returns true once in n times.
func (d *dice) oneIn(stream string, n int) bool { return d.below(stream, n) == 0 }

// upTo returns a duration of less than limit, to the nanosecond, so that few
// things happen at one instant.
func (d *dice) upTo(stream string, limit time.Duration) time.Duration {
	return time.Duration(d.below(stream, int(limit)))
}
