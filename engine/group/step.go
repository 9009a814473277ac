package group

import (
	"slices"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

// Step lets an event happen at a time and returns what it asks for.
func (g *Group) Step(now time.Time, ev Event) Effects {
	g.out = Effects{}
	switch ev := ev.(type) {
	case Join:
		g.onJoin(now, ev)
	case Sync:
		g.onSync(now, ev)
	case Heartbeat:
		g.reply(ev.Token, Now, g.onHeartbeat(now, ev), nil)
	case Leave:
		g.onLeave(now, ev)
	case Commit:
		g.onCommit(now, ev)
	case DeleteOffsets:
		g.onDeleteOffsets(ev)
	case Delete:
		g.onDelete(ev)
	case TxnBegin:
		g.onTxnBegin(ev)
	case TxnCommit:
		g.onTxnCommit(now, ev)
	case TxnEnd:
		g.onTxnEnd(ev)
	case Tick:
		g.onTick(now)
	case Expire:
		g.onExpire(now, ev)
	}
	for tp, o := range g.out.Set {
		g.ahead[tp] = o.Order
	}
	for _, tp := range g.out.Del {
		g.ahead[tp] = 0
	}
	out := g.out
	g.out = Effects{}
	return out
}

func (g *Group) onHeartbeat(now time.Time, r Heartbeat) kafka.ErrorCode {
	if g.state == Dead {
		return kafka.CoordinatorNotAvailable
	}
	m, code := g.check(r.MemberID, r.InstanceID)
	switch {
	case code != kafka.None:
		return code
	case r.Generation != g.generation:
		return kafka.IllegalGeneration
	}
	g.alive(now, m)
	if g.state == PreparingRebalance {
		return kafka.RebalanceInProgress
	}
	return kafka.None
}

// alive starts a member's session anew.
func (g *Group) alive(now time.Time, m *Member) { m.expire = now.Add(m.Session) }

func (g *Group) onLeave(now time.Time, r Leave) {
	if g.state == Dead {
		g.reply(r.Token, Now, kafka.CoordinatorNotAvailable, nil)
		return
	}
	codes := make([]kafka.ErrorCode, len(r.Members))
	left := false
	for i, l := range r.Members {
		codes[i] = g.leave(l)
		left = left || codes[i] == kafka.None
	}
	if left {
		g.membersChanged(now)
	}
	g.reply(r.Token, Saved, kafka.None, codes)
}

func (g *Group) leave(l Leaver) kafka.ErrorCode {
	if l.MemberID == "" { // an administrator removes a static member (KIP-345)
		if l.InstanceID == nil || g.static[*l.InstanceID] == nil {
			return kafka.UnknownMemberID
		}
		g.remove(g.static[*l.InstanceID])
		return kafka.None
	}
	if _, ok := g.pending[l.MemberID]; ok {
		delete(g.pending, l.MemberID)
		return kafka.None
	}
	m, code := g.check(l.MemberID, l.InstanceID)
	if code == kafka.None {
		g.remove(m)
	}
	return code
}

// membersChanged goes on after somebody has left.
func (g *Group) membersChanged(now time.Time) {
	switch g.state {
	case Stable, CompletingRebalance:
		g.prepare(now)
	case PreparingRebalance:
		g.maybeComplete(now)
	case Empty, Dead:
	}
}

func (g *Group) onDelete(r Delete) {
	switch {
	case !g.Exists():
		g.reply(r.Token, Now, kafka.GroupIDNotFound, nil)
	case g.state != Empty:
		g.reply(r.Token, Now, kafka.NonEmptyGroup, nil)
	default:
		g.die()
		g.reply(r.Token, Deleted, kafka.None, nil)
	}
}

func (g *Group) die() {
	g.become(Dead)
	g.pending = map[string]time.Time{}
	g.out.Delete = true
}

// Next returns when the next Tick is due; zero: none is.
func (g *Group) Next() time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	earlier(g.joinAt)
	earlier(g.syncAt)
	for _, t := range g.pending {
		earlier(t)
	}
	for _, m := range g.members {
		if !m.waits() {
			earlier(m.expire)
		}
	}
	return next
}

func (g *Group) onTick(now time.Time) {
	if !g.joinAt.IsZero() && !now.Before(g.joinAt) {
		g.joinOver(now)
	}
	if !g.syncAt.IsZero() && !now.Before(g.syncAt) {
		g.syncOver(now)
	}
	for _, m := range slices.Clone(g.members) {
		if g.byID[m.ID] == m && !m.waits() && !now.Before(m.expire) {
			g.remove(m)
			g.membersChanged(now)
		}
	}
	gone := false
	for id, t := range g.pending {
		if !now.Before(t) {
			delete(g.pending, id)
			gone = true
		}
	}
	if gone && g.state == PreparingRebalance {
		g.maybeComplete(now)
	}
}
