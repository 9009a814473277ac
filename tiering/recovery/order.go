package recovery

import (
	"maps"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
)

// order merges the slots' lists of what they are rebuilt from into one, so that
// each slot gets its own in its own order, and what several slots name comes once, but
// where their orders contradict each other.
type order[T any, K comparable] struct {
	left map[kafka.Slot][]T // not empty
	id   func(T) K
}

func (o *order[T, K]) add(s kafka.Slot, list []T) {
	if len(list) > 0 {
		o.left[s] = list
	}
}

// next returns what comes next, and what of it each slot whose turn it is has.
func (o *order[T, K]) next() (next K, turn map[kafka.Slot]T, ok bool) {
	if next, ok = o.choose(); !ok {
		return next, nil, false
	}
	turn = make(map[kafka.Slot]T)
	for s, list := range o.left {
		if o.id(list[0]) != next {
			continue
		}
		turn[s] = list[0]
		if o.left[s] = list[1:]; len(list) == 1 {
			delete(o.left, s)
		}
	}
	return next, turn, true
}

// choose returns what is next for some slot, and later for as few others as can be.
func (o *order[T, K]) choose() (best K, ok bool) {
	later := make(map[K]int)
	for _, list := range o.left {
		for _, v := range list[1:] {
			later[o.id(v)]++
		}
	}
	for _, s := range slices.Sorted(maps.Keys(o.left)) {
		if k := o.id(o.left[s][0]); !ok || later[k] < later[best] {
			best, ok = k, true
		}
	}
	return best, ok
}
