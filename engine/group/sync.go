package group

import (
	"slices"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

func (g *Group) onSync(now time.Time, r Sync) {
	m, code := g.checkSync(r)
	if code != kafka.None {
		g.reply(r.Token, Now, code, nil)
		return
	}
	g.answerSync(m, kafka.RebalanceInProgress) // an older request, given up by its client
	m.sync = r.Token
	delete(g.unsynced, m.ID)
	if len(g.unsynced) == 0 {
		g.syncAt = time.Time{}
	}
	if g.state == CompletingRebalance && g.leader == m.ID {
		g.assign(r.Assignments)
	}
	if g.state != Stable {
		return
	}
	for _, x := range g.members {
		if x.sync != 0 {
			g.answerSync(x, kafka.None)
			g.alive(now, x)
		}
	}
}

func (g *Group) checkSync(r Sync) (*Member, kafka.ErrorCode) {
	if g.state == Dead {
		return nil, kafka.CoordinatorNotAvailable
	}
	m, code := g.check(r.MemberID, r.InstanceID)
	switch {
	case code != kafka.None:
		return nil, code
	case r.Generation != g.generation:
		return nil, kafka.IllegalGeneration
	case r.ProtocolType != nil && *r.ProtocolType != g.protocolType, r.Protocol != nil && *r.Protocol != g.protocol:
		return nil, kafka.InconsistentGroupProtocol // KIP-559
	case g.state == PreparingRebalance:
		return nil, kafka.RebalanceInProgress
	}
	return m, kafka.None
}

// assign takes the leader's assignment; who is not in it gets an empty one.
func (g *Group) assign(a map[string][]byte) {
	for _, m := range g.members {
		m.Assignment = a[m.ID]
	}
	g.become(Stable)
	g.out.Save = true
}

// syncOver removes the members that did not sync in time (Kafka calls them
// pending sync members).
func (g *Group) syncOver(now time.Time) {
	g.syncAt = time.Time{}
	for _, m := range slices.Clone(g.members) {
		if g.unsynced[m.ID] {
			g.remove(m)
		}
	}
	clear(g.unsynced)
	g.prepare(now)
}
