package member

import (
	"cmp"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Balance by what slots are asked for comes after balance by their number: a
// busy slot of the busiest broker and a quiet one of the idlest change places, so that
// the numbers stay. It works by steps that are far apart, moves few slots in
// each, and none for less than it is worth.
const (
	HotSlots     = 8       // slots that a session tells the rate of
	leastRate    = 1 << 20 // bytes a second of a broker below which nothing is worth a move
	hysteresis   = 0.2     // of the average: what a broker may have more than it
	leastGain    = 0.1     // of the average: by how much a step must make the busiest less busy
	swapsPerStep = 2
)

// NewLoad returns the load of slots with these rates.
func NewLoad(rates map[kafka.Slot]int64) (l catalog.Load) {
	for s, r := range rates {
		if l.Total += r; r > 0 {
			l.Hot = append(l.Hot, catalog.SlotLoad{Slot: s, Rate: r})
		}
	}
	slices.SortFunc(l.Hot, func(a, b catalog.SlotLoad) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(a.Slot, b.Slot))
	})
	l.Hot = slices.Clip(l.Hot[:min(len(l.Hot), HotSlots)])
	return l
}

// Rebalance returns slots that should change their broker, by pairs, or none
// where all is even enough. Slots that are pinned stay.
func Rebalance(nodes []Node, owners []catalog.Owner, pins map[kafka.Slot]int32, load map[catalog.SessionID]catalog.Load) map[kafka.Slot]int32 {
	r := rebalance{assignment: newAssignment(nodes, owners), pins: pins, moves: make(map[kafka.Slot]int32)}
	if len(r.nodes) < 2 {
		return nil
	}
	for _, n := range r.nodes {
		l := load[n.Session]
		r.total, r.hot = append(r.total, l.Total), append(r.hot, l.Hot)
		r.average += float64(l.Total) / float64(len(r.nodes))
	}
	for range swapsPerStep {
		if !r.swap() {
			break
		}
	}
	return r.moves
}

// rebalance is a Rebalance under way.
type rebalance struct {
	*assignment
	pins    map[kafka.Slot]int32
	total   []int64 // of each node
	hot     [][]catalog.SlotLoad
	average float64
	moves   map[kafka.Slot]int32
}

// swap makes the busiest and the idlest node exchange the pair of slots that makes them most
// alike; false: nothing is to be gained.
func (r *rebalance) swap() bool {
	busy, idle := 0, 0
	for i, n := range r.total {
		if n > r.total[busy] {
			busy = i
		}
		if n < r.total[idle] {
			idle = i
		}
	}
	high, low := r.total[busy], r.total[idle]
	if high < leastRate || float64(high) <= (1+hysteresis)*r.average {
		return false
	}
	best, least := -1, high-int64(leastGain*r.average)
	for i, h := range r.hot[busy] {
		if after := max(high-h.Rate, low+h.Rate); after < least && r.movable(h.Slot, busy) {
			best, least = i, after
		}
	}
	if best < 0 {
		return false
	}
	quiet, ok := r.quiet(idle, busy)
	if !ok {
		return false
	}
	h := r.hot[busy][best]
	r.total[busy], r.total[idle] = high-h.Rate, low+h.Rate
	r.to[h.Slot], r.to[quiet] = idle, busy
	r.moves[h.Slot], r.moves[quiet] = r.nodes[idle].Session.Broker, r.nodes[busy].Session.Broker
	return true
}

// movable tells whether a slot is a node's, and may go to another.
func (r *rebalance) movable(s kafka.Slot, node int) bool {
	_, pinned := r.pins[s]
	_, moved := r.moves[s]
	return int(s) < len(r.to) && r.to[s] == node && !pinned && !moved
}

// quiet returns a slot of a node that is not among its busiest, as far from
// those of the node that gets it as there is one.
func (r *rebalance) quiet(from, to int) (best kafka.Slot, ok bool) {
	far := 0
	for s := range r.to {
		slot := kafka.Slot(s)
		if !r.movable(slot, from) || slices.ContainsFunc(r.hot[from], func(h catalog.SlotLoad) bool { return h.Slot == slot }) {
			continue
		}
		if d := r.distance(s, to); d > far {
			best, far, ok = slot, d, true
		}
	}
	return best, ok
}
