package group

import (
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

func refused(id string) Joined { return Joined{MemberID: id, Generation: -1} }

func (g *Group) onJoin(now time.Time, r Join) {
	refuse := func(code kafka.ErrorCode, id string) { g.reply(r.Token, Now, code, refused(id)) }
	known := g.byID[r.MemberID]
	_, pending := g.pending[r.MemberID]
	switch {
	case g.state == Dead:
		refuse(kafka.CoordinatorNotAvailable, r.MemberID)
	case !g.created && r.MemberID != "":
		refuse(kafka.UnknownMemberID, r.MemberID)
	case !g.accepts(known) || !g.fits(known, r.Protocols):
		if known != nil {
			g.remove(known)
		}
		delete(g.pending, r.MemberID)
		refuse(kafka.GroupMaxSizeReached, "")
	case !g.supports(r.ProtocolType, r.Protocols):
		refuse(kafka.InconsistentGroupProtocol, r.MemberID)
	case r.MemberID == "":
		g.joinNew(now, r)
	case pending && r.InstanceID != nil:
		refuse(kafka.UnknownServerError, r.MemberID) // a pending member cannot be static
	case pending:
		g.addMember(now, r, r.MemberID)
	default:
		m, code := g.check(r.MemberID, r.InstanceID)
		if code != kafka.None {
			refuse(code, r.MemberID)
			return
		}
		g.rejoin(now, r, m)
	}
}

// accepts tells whether the group has room for a member (nil: a new one).
func (g *Group) accepts(known *Member) bool {
	limit := min(g.Limits.MaxSize, maxMembers)
	switch g.state {
	case PreparingRebalance: // those that have not come back leave with the rebalance
		return known != nil && known.join != 0 || g.joining() < limit && (known != nil || len(g.members) < maxMembers)
	case CompletingRebalance, Stable:
		return known != nil || len(g.members) < limit
	default:
		return true
	}
}

// fits tells whether the group has room for what a member (nil: a new one) offers.
func (g *Group) fits(known *Member, protocols []Protocol) bool {
	size := sizeOf(protocols)
	for _, m := range g.members {
		if m != known {
			size += sizeOf(m.Protocols)
		}
	}
	return size <= maxOffered
}

func sizeOf(protocols []Protocol) int {
	size := 0
	for _, p := range protocols {
		size += len(p.Name) + len(p.Metadata)
	}
	return size
}

func (g *Group) joinNew(now time.Time, r Join) {
	if r.InstanceID != nil {
		id := *r.InstanceID + "-" + r.NewID
		if old, ok := g.static[*r.InstanceID]; ok {
			g.replaceStatic(now, r, old, id)
			return
		}
		g.addMember(now, r, id)
		return
	}
	id := r.ClientID + "-" + r.NewID
	if !r.RequireID {
		g.addMember(now, r, id)
		return
	}
	if len(g.pending) >= maxPending {
		g.reply(r.Token, Now, kafka.GroupMaxSizeReached, refused(""))
		return
	}
	g.created = true
	g.pending[id] = now.Add(r.Session)
	g.reply(r.Token, Now, kafka.MemberIDRequired, refused(id))
}

func (g *Group) addMember(now time.Time, r Join, id string) {
	g.created = true
	if len(g.members) == 0 {
		g.protocolType = r.ProtocolType
	}
	m := &Member{
		ID: id, InstanceID: r.InstanceID, ClientID: r.ClientID, ClientHost: r.ClientHost,
		Session: r.Session, Rebalance: r.Rebalance, Protocols: r.Protocols,
		isNew: true, join: r.Token, expire: now.Add(newMemberTimeout),
	}
	if g.state == PreparingRebalance && g.prev == Empty {
		g.newcomer = true
	}
	g.add(m)
	g.rebalance(now)
}

// update takes what a rejoining member says and lets its request wait.
func (g *Group) update(m *Member, r Join) {
	g.answerJoin(m, kafka.RebalanceInProgress, refused(m.ID)) // an older request, given up by its client
	m.Protocols, m.Session, m.Rebalance = r.Protocols, r.Session, r.Rebalance
	m.join = r.Token
}

func (g *Group) rejoin(now time.Time, r Join, m *Member) {
	same := sameProtocols(m.Protocols, r.Protocols)
	switch {
	case g.state == Empty: // not reached: an empty group has no members
		g.reply(r.Token, Now, kafka.UnknownMemberID, refused(r.MemberID))
	case g.state == CompletingRebalance && same, // the answer to its join may have been lost
		g.state == Stable && same && g.leader != m.ID: // a leader that joins again wants a rebalance
		g.reply(r.Token, Saved, kafka.None, g.joined(m, g.state == CompletingRebalance))
	default:
		g.update(m, r)
		g.rebalance(now)
	}
}

// joined is what a member learns of the generation; a leader, also of the members.
func (g *Group) joined(m *Member, lead bool) Joined {
	j := Joined{MemberID: m.ID, Generation: g.generation, ProtocolType: &[]string{g.protocolType}[0], Protocol: &[]string{g.protocol}[0], Leader: g.leader}
	if lead && g.leader == m.ID {
		for _, x := range g.members {
			j.Members = append(j.Members, JoinedMember{ID: x.ID, InstanceID: x.InstanceID, Metadata: x.metadata(g.protocol)})
		}
	}
	return j
}

// replaceStatic lets a static member come back under a new id. In a stable
// group whose protocol stays the same it gets its old assignment, without a
// rebalance (KIP-345, KIP-814).
func (g *Group) replaceStatic(now time.Time, r Join, m *Member, id string) {
	oldID, oldLeader := m.ID, g.leader
	g.answerJoin(m, kafka.FencedInstanceID, refused(oldID))
	g.answerSync(m, kafka.FencedInstanceID)
	delete(g.byID, oldID)
	if g.unsynced[oldID] {
		delete(g.unsynced, oldID)
		g.unsynced[id] = true
	}
	m.ID = id
	g.byID[id] = m
	if g.leader == oldID {
		g.leader = id
	}
	g.update(m, r)
	g.alive(now, m)
	switch {
	case g.state == Stable && g.choose() == g.protocol:
		j := g.joined(m, r.SkipAssignment)
		if r.SkipAssignment {
			j.SkipAssignment = g.leader == id
		} else {
			j.Leader = oldLeader // an old client that heard it leads would assign
		}
		g.out.Save = true
		g.answerJoin(m, kafka.None, j)
	case g.state == PreparingRebalance:
		g.maybeComplete(now)
	default:
		g.prepare(now)
	}
}

// rebalance starts a rebalance, or goes on with the one that is under way.
func (g *Group) rebalance(now time.Time) {
	if g.state == PreparingRebalance {
		g.maybeComplete(now)
		return
	}
	g.prepare(now)
}

// prepare starts the join phase. Awaited syncs are told to join again. The
// first rebalance of an empty group is put off for more members to come.
func (g *Group) prepare(now time.Time) {
	for _, m := range g.members {
		if g.state == CompletingRebalance {
			m.Assignment = nil
		}
		if m.sync != 0 {
			g.answerSync(m, kafka.RebalanceInProgress)
			g.alive(now, m)
		}
	}
	g.syncAt = time.Time{}
	first := g.state == Empty
	g.become(PreparingRebalance)
	if first {
		g.delay = g.Limits.InitialDelay
		g.remaining = max(g.rebalanceTimeout()-g.delay, 0)
		g.newcomer = false
		g.joinAt = now.Add(g.delay)
		return
	}
	g.joinAt = now.Add(g.rebalanceTimeout())
	g.maybeComplete(now)
}

func (g *Group) allJoined() bool { return len(g.pending) == 0 && g.joining() == len(g.members) }

// maybeComplete ends the join phase when all have joined, except in the first
// rebalance, which waits for its delay.
func (g *Group) maybeComplete(now time.Time) {
	if g.allJoined() && (g.prev != Empty || len(g.members) == 0) {
		g.complete(now)
	}
}

func (g *Group) joinOver(now time.Time) {
	if g.prev == Empty && g.newcomer && g.remaining > 0 {
		g.newcomer = false
		delay := min(g.Limits.InitialDelay, g.remaining)
		g.remaining = max(g.remaining-g.delay, 0)
		g.delay = delay
		g.joinAt = now.Add(delay)
		return
	}
	g.complete(now)
}

// complete ends the join phase: dynamic members that did not join are out,
// and the next generation begins.
func (g *Group) complete(now time.Time) {
	g.joinAt = time.Time{}
	for _, m := range append([]*Member(nil), g.members...) {
		if m.join == 0 && m.InstanceID == nil {
			g.remove(m)
		}
	}
	if len(g.members) > 0 && !g.elect() {
		g.joinAt = now.Add(max(g.rebalanceTimeout(), minRejoinWait)) // only absent static members: until their sessions end
		return
	}
	g.generation++
	g.out.Save = true
	clear(g.unsynced)
	g.protocol = g.choose()
	if len(g.members) == 0 {
		g.become(Empty)
		g.emptySince = now
		g.topics = map[string]bool{}
		return
	}
	g.become(CompletingRebalance)
	g.subscribe()
	for _, m := range g.members {
		g.answerJoin(m, kafka.None, g.joined(m, true))
		m.isNew = false
		g.alive(now, m)
		g.unsynced[m.ID] = true
	}
	g.syncAt = now.Add(g.rebalanceTimeout())
}

// elect keeps the leader, or makes the first that joined the leader.
func (g *Group) elect() bool {
	if l := g.byID[g.leader]; l != nil && l.join != 0 {
		return true
	}
	for _, m := range g.members {
		if m.join != 0 {
			g.leader = m.ID
			return true
		}
	}
	return false
}
