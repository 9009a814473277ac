package group

import (
	"slices"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

func (g *Group) onCommit(now time.Time, r Commit) {
	code := g.checkCommit(now, r)
	if code != kafka.None {
		g.reply(r.Token, Now, code, nil)
		return
	}
	if !g.created {
		g.created, g.emptySince = true, now
		g.out.Save = true
	}
	g.out.Set = g.committed(r.Offsets)
	g.reply(r.Token, Written, kafka.None, nil)
}

// checkCommit refuses commits of others than members, and, to a group without
// members, of all but simple consumers.
func (g *Group) checkCommit(now time.Time, r Commit) kafka.ErrorCode {
	simple := r.Generation < 0 && g.state == Empty
	switch {
	case g.state == Dead:
		return kafka.CoordinatorNotAvailable
	case !g.created && r.Generation >= 0 && r.NewErrors:
		return kafka.GroupIDNotFound
	case !g.created && r.Generation >= 0:
		return kafka.IllegalGeneration
	case simple:
		return kafka.None
	case r.Generation < 0 && r.MemberID == "" && r.InstanceID == nil:
		return kafka.UnknownMemberID
	}
	m, code := g.check(r.MemberID, r.InstanceID)
	switch {
	case code != kafka.None:
		return code
	case r.Generation != g.generation:
		return kafka.IllegalGeneration
	}
	if g.state == CompletingRebalance {
		return kafka.RebalanceInProgress
	}
	g.alive(now, m)
	return kafka.None
}

func (g *Group) onDeleteOffsets(r DeleteOffsets) {
	switch {
	case !g.Exists():
		g.reply(r.Token, Now, kafka.GroupIDNotFound, nil)
		return
	case g.state != Empty && g.protocolType != "consumer":
		g.reply(r.Token, Now, kafka.NonEmptyGroup, nil)
		return
	}
	codes := make([]kafka.ErrorCode, len(r.Topics))
	for i, t := range r.Topics {
		if g.subscribed(t.Name) {
			codes[i] = kafka.GroupSubscribedToTopic
			continue
		}
		g.out.Del = append(g.out.Del, t.All...)
	}
	g.reply(r.Token, Written, kafka.None, codes)
}

// onExpire removes offsets past their retention, those of topics that are no
// more, and, when none is left, a group without members. The retention counts from
//
//	a group that had members, empty   when it became empty, or the offset was committed, if later
//	a simple group                    when the offset was committed
//	a stable consumer group           when the offset of a topic without subscriber was committed
//
// and otherwise offsets stay (KIP-211). Groups without members that are in no
// coordinator's memory are the retention job's.
func (g *Group) onExpire(now time.Time, r Expire) {
	if !g.Exists() || len(g.txns) > 0 {
		return
	}
	for tp, o := range g.offsets {
		name, ok := r.Name(tp.Topic)
		var since time.Time
		expires := true
		switch {
		case g.state == Empty && g.protocolType != "":
			since = g.emptySince
		case g.state == Empty:
		default:
			expires = g.state == Stable && g.protocolType == "consumer" && ok && !g.subscribed(name)
		}
		if !ok || expires && !now.Before(o.Expires(since, g.Limits.Retention)) {
			g.out.Del = append(g.out.Del, tp)
		}
	}
	slices.SortFunc(g.out.Del, kafka.TopicPartition.Compare)
	if len(g.out.Del) == len(g.offsets) && g.state == Empty && g.Idle() {
		g.out.Del = nil
		g.die()
	}
}

// subscribed tells whether a member wants a topic, as far as can be told: if
// the members' subscriptions cannot be read, all topics count.
func (g *Group) subscribed(topic string) bool {
	if g.topics == nil {
		return g.state != Empty && g.protocolType == "consumer"
	}
	return g.topics[topic]
}

// subscribe reads the subscriptions of the generation's members.
func (g *Group) subscribe() {
	g.topics = nil
	if g.protocolType != "consumer" {
		return
	}
	topics := make(map[string]bool)
	for _, m := range g.members {
		names, ok := subscription(m.metadata(g.protocol))
		if !ok {
			return
		}
		for _, n := range names {
			topics[n] = true
		}
	}
	g.topics = topics
}

// subscription reads the topics of a ConsumerProtocol subscription: version
// int16, then an array of strings. What follows is of no interest.
func subscription(b []byte) ([]string, bool) {
	if len(b) < 6 {
		return nil, false
	}
	n := int(int32(uint32(b[2])<<24 | uint32(b[3])<<16 | uint32(b[4])<<8 | uint32(b[5])))
	b = b[6:]
	if n < 0 || n > len(b)/2 {
		return nil, false
	}
	topics := make([]string, 0, n)
	for range n {
		if len(b) < 2 {
			return nil, false
		}
		size := int(b[0])<<8 | int(b[1])
		if size > len(b)-2 {
			return nil, false
		}
		topics = append(topics, string(b[2:2+size]))
		b = b[2+size:]
	}
	return topics, true
}
