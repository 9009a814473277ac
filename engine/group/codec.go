package group

import (
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// fence names the ownership of the slot under which a state was written.
type fence = catalog.GroupFence

func fenceOf(s catalog.Slot) fence {
	return fence{Broker: s.Owner.Broker, Session: s.Owner.Epoch, Epoch: s.Epoch}
}

func encode(g *Group, f fence) []byte {
	s := catalog.SavedGroup{
		Fence: f, State: int(g.state), Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol,
		Leader: g.leader, EmptySinceMs: g.emptySince.UnixMilli(),
	}
	if g.state == Dead { // until its items are deleted
		s.State = int(Empty)
	}
	for _, m := range g.members {
		s.Members = append(s.Members, catalog.SavedMember{
			ID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, ClientHost: m.ClientHost,
			SessionMs: m.Session.Milliseconds(), RebalanceMs: m.Rebalance.Milliseconds(),
			Protocols: m.Protocols, Assignment: m.Assignment,
		})
	}
	return s.Encode()
}

func decode(b []byte) (*Group, fence, error) {
	s, err := catalog.DecodeGroup(b)
	state := State(s.State)
	if state == Dead { // as it was once saved
		state = Empty
	}
	if err == nil && (state < Empty || state > Stable || len(s.Members) > maxMembers || state == Empty && len(s.Members) > 0) {
		err = fmt.Errorf("%w: state %d with %d members", catalog.ErrCorruptGroup, s.State, len(s.Members))
	}
	if err != nil {
		return nil, fence{}, err
	}
	g := NewGroup()
	g.created, g.state, g.prev = true, state, Stable
	g.generation, g.protocolType, g.protocol = s.Generation, s.ProtocolType, s.Protocol
	g.emptySince = time.UnixMilli(s.EmptySinceMs)
	for _, m := range s.Members {
		if g.byID[m.ID] != nil || m.InstanceID != nil && g.static[*m.InstanceID] != nil {
			return nil, fence{}, fmt.Errorf("%w: member %q twice", catalog.ErrCorruptGroup, m.ID)
		}
		g.add(&Member{
			ID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, ClientHost: m.ClientHost,
			Session: time.Duration(m.SessionMs) * time.Millisecond, Rebalance: time.Duration(m.RebalanceMs) * time.Millisecond,
			Protocols: m.Protocols, Assignment: m.Assignment,
		})
	}
	if g.byID[s.Leader] != nil {
		g.leader = s.Leader
	}
	return g, s.Fence, nil
}

// resume goes on with a group as it was saved: members have their whole
// session to be heard from, and a rebalance that was under way its whole time.
// Answers that were not given are asked for again: by a join with the same
// protocols, which is answered with the generation, or by a sync. changed tells
// that the state is another than was saved.
func (g *Group) resume(now time.Time) (changed bool) {
	if len(g.members) == 0 && g.state != Empty { // only pending members had been left
		g.state, g.emptySince, changed = Empty, now, true
	}
	for _, m := range g.members {
		g.alive(now, m)
	}
	switch g.state {
	case PreparingRebalance:
		g.joinAt = now.Add(g.rebalanceTimeout())
	case CompletingRebalance:
		for _, m := range g.members {
			g.unsynced[m.ID] = true
		}
		g.syncAt = now.Add(g.rebalanceTimeout())
	case Empty, Stable, Dead:
	}
	if g.state != PreparingRebalance {
		g.subscribe()
	}
	if g.state == Empty {
		g.topics = map[string]bool{}
	}
	return changed
}
