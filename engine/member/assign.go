package member

import (
	"cmp"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Node is a live session, as Assign sees it.
type Node struct {
	Session catalog.SessionID
	Rack    string // "": none
	Drained bool   // it should own nothing
}

// Assign returns for each slot the session that should own it. owners are
// today's, one for each slot; one that is not among the nodes is none. pins name
// the broker that a slot should be with whatever the balance, while it is there.
//
// It depends on nothing else, so brokers that see the same decide the same.
// Slots are even by number, as few move as that takes, what moves lies evenly
// over all slots, and what must be placed goes to who has no slot close by,
// then to who is of another rack than the neighbours: neighbouring slots hold
// neighbouring partitions of a topic. Where all nodes are drained, none is. Without nodes the result is nil.
func Assign(nodes []Node, owners []catalog.Owner, pins map[kafka.Slot]int32) []catalog.SessionID {
	a := newAssignment(nodes, owners)
	if len(a.nodes) == 0 {
		return nil
	}
	a.pin(pins)
	a.quotas()
	a.release()
	for s := range a.to {
		if a.to[s] < 0 {
			a.place(s)
		}
	}
	out := make([]catalog.SessionID, len(a.to))
	for s, n := range a.to {
		out[s] = a.nodes[n].Session
	}
	return out
}

// assignment is an Assign under way. Nodes are named by their index.
type assignment struct {
	nodes  []Node
	to     []int  // of each slot; -1: nobody yet
	pinned []bool // of each slot
	count  []int  // slots of each node
	quota  []int  // what each may have
}

func newAssignment(nodes []Node, owners []catalog.Owner) *assignment {
	a := &assignment{nodes: eligible(nodes), to: make([]int, len(owners)), pinned: make([]bool, len(owners))}
	a.count, a.quota = make([]int, len(a.nodes)), make([]int, len(a.nodes))
	index := make(map[catalog.SessionID]int, len(a.nodes))
	for i, n := range a.nodes {
		index[n.Session] = i
	}
	for s, o := range owners {
		i, ok := index[o.Session]
		if !ok || o.Epoch < 0 {
			a.to[s] = -1
			continue
		}
		a.to[s] = i
		a.count[i]++
	}
	return a
}

// eligible returns the nodes that may own slots: of each broker id the newest
// session, by id.
func eligible(nodes []Node) []Node {
	all := slices.Clone(nodes)
	slices.SortFunc(all, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Session.Broker, b.Session.Broker), cmp.Compare(b.Session.Epoch, a.Session.Epoch))
	})
	all = slices.CompactFunc(all, func(a, b Node) bool { return a.Session.Broker == b.Session.Broker })
	serving := slices.DeleteFunc(slices.Clone(all), func(n Node) bool { return n.Drained })
	if len(serving) == 0 {
		return all
	}
	return serving
}

func (a *assignment) pin(pins map[kafka.Slot]int32) {
	for s, broker := range pins {
		i := slices.IndexFunc(a.nodes, func(n Node) bool { return n.Session.Broker == broker })
		if i < 0 || int(s) >= len(a.to) || s < 0 {
			continue
		}
		if old := a.to[s]; old >= 0 {
			a.count[old]--
		}
		a.to[s], a.pinned[s] = i, true
		a.count[i]++
	}
}

// quotas gives each node its share; those with most have what does not divide evenly.
func (a *assignment) quotas() {
	order := make([]int, len(a.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(a.count[y], a.count[x]) })
	each, rest := len(a.to)/len(a.nodes), len(a.to)%len(a.nodes)
	for k, i := range order {
		a.quota[i] = each
		if k < rest {
			a.quota[i]++
		}
	}
}

// release takes from the nodes with too many slots what they have too much of,
// evenly over all slots.
func (a *assignment) release() {
	total := 0
	for i := range a.nodes {
		total += a.surplus(i)
	}
	for k := range total {
		a.releaseNear(k * len(a.to) / total)
	}
}

// surplus is how many slots of a node should and can go.
func (a *assignment) surplus(i int) int { return max(0, a.count[i]-a.quota[i]) }

// releaseNear releases the slot nearest to s, at it or behind, that can go.
func (a *assignment) releaseNear(s int) {
	for d := range a.to {
		at := (s + d) % len(a.to)
		if i := a.to[at]; i >= 0 && !a.pinned[at] && a.surplus(i) > 0 {
			a.to[at] = -1
			a.count[i]--
			return
		}
	}
}

// place gives a slot to the best node below its quota. Pins may have filled
// all quotas; then it goes to who has least.
func (a *assignment) place(s int) {
	best, bestScore := -1, [4]int{}
	for i := range a.nodes {
		room := a.quota[i] - a.count[i]
		score := [4]int{min(room, 1), a.distance(s, i), -a.sameRack(s, i), room}
		if best < 0 || slices.Compare(score[:], bestScore[:]) > 0 {
			best, bestScore = i, score
		}
	}
	a.to[s] = best
	a.count[best]++
}

// distance returns how far the nearest slot of node i is from s, at most as
// far as there are nodes.
func (a *assignment) distance(s, i int) int {
	for d := 1; d < len(a.nodes); d++ {
		if a.near(s, d) == i || a.near(s, -d) == i {
			return d
		}
	}
	return len(a.nodes)
}

func (a *assignment) sameRack(s, i int) (n int) {
	for _, d := range []int{-1, 1} {
		if j := a.near(s, d); j >= 0 && a.nodes[j].Rack != "" && a.nodes[j].Rack == a.nodes[i].Rack {
			n++
		}
	}
	return n
}

// near returns the node of the slot at distance d on the ring of slots, or -1.
func (a *assignment) near(s, d int) int {
	return a.to[((s+d)%len(a.to)+len(a.to))%len(a.to)]
}
