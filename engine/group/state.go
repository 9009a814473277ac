package group

import (
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// State is a group's state, under Kafka's names.
//
//	Empty ──join──▶ PreparingRebalance ──all joined, or time is up──▶ CompletingRebalance
//	  ▲                 ▲     │ nobody left                               │ the leader's sync
//	  └─────────────────┼─────┘                                           ▼
//	                    └───────join, leave, expiry◀──────────────────  Stable
type State int

// The states.
const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
	Dead
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String returns Kafka's name.
func (s State) String() string { return stateNames[s] }

const (
	newMemberTimeout = 5 * time.Minute // a join of a new member waits so long (Kafka's group.new.member.join.timeout)
	maxMembers       = 10_000          // whatever group.max.size says
	maxPending       = 10_000
	maxOffered       = 32 << 20    // bytes of protocols that all members offer together
	minRejoinWait    = time.Second // between looks at whether absent static members are back
)

// Limits are the settings that the rules need.
type Limits struct {
	InitialDelay time.Duration // group.initial.rebalance.delay.ms
	MaxSize      int           // group.max.size
	Retention    time.Duration // offsets.retention.minutes
}

// Member is a member of a group.
type Member struct {
	ID                   string
	InstanceID           *string // of a static member
	ClientID, ClientHost string
	Session, Rebalance   time.Duration
	Protocols            []Protocol
	Assignment           []byte

	isNew      bool      // has never had an answer with its generation
	join, sync Token     // requests that wait
	expire     time.Time // when its session ends
}

// waits tells whether the member needs no heartbeat because a request of it
// waits for the group.
func (m *Member) waits() bool { return !m.isNew && (m.join != 0 || m.sync != 0) }

func (m *Member) metadata(protocol string) []byte {
	for _, p := range m.Protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

func (m *Member) offers(protocol string) bool {
	return slices.ContainsFunc(m.Protocols, func(p Protocol) bool { return p.Name == protocol })
}

func sameProtocols(a, b []Protocol) bool {
	return slices.EqualFunc(a, b, func(x, y Protocol) bool {
		return x.Name == y.Name && string(x.Metadata) == string(y.Metadata)
	})
}

// Group is the state of one group. Step changes it; it does no I/O, reads no
// clock, and is deterministic. It is not safe for concurrent use.
type Group struct {
	Limits Limits // set before each Step

	created      bool // it exists for observers
	state, prev  State
	generation   int32
	protocolType string
	protocol     string
	leader       string
	emptySince   time.Time
	members      []*Member // in the order of joining
	byID         map[string]*Member
	static       map[string]*Member // by instance id
	pending      map[string]time.Time
	unsynced     map[string]bool // members from which a sync is awaited

	joinAt    time.Time     // when the join phase ends
	remaining time.Duration // how much further it may be put off, of the first rebalance
	delay     time.Duration // by how much it was put off last
	newcomer  bool          // somebody joined while it was put off
	syncAt    time.Time     // when the awaited syncs are over

	topics  map[string]bool // subscribed, as of the generation; nil: cannot be told
	offsets map[kafka.TopicPartition]catalog.GroupOffset
	order   int64                          // of the last commit
	ahead   map[kafka.TopicPartition]int64 // orders of what is not durable yet; 0: is deleted

	txns   map[int64]catalog.PendingOffsets // by producer id: offsets that wait for a transaction's end
	ending map[int64]bool                   // of those, whose end is not durable yet
	asked  map[int64]*asked                 // by producer id: whose transaction is being looked at (txn.go)

	out Effects // of the running step
}

// NewGroup returns a group that does not exist yet.
func NewGroup() *Group {
	return &Group{
		byID: map[string]*Member{}, static: map[string]*Member{}, pending: map[string]time.Time{},
		unsynced: map[string]bool{}, offsets: map[kafka.TopicPartition]catalog.GroupOffset{}, ahead: map[kafka.TopicPartition]int64{},
		txns: map[int64]catalog.PendingOffsets{}, ending: map[int64]bool{}, asked: map[int64]*asked{},
	}
}

// Exists tells whether observers see the group.
func (g *Group) Exists() bool { return g.created && g.state != Dead }

// Idle tells whether nothing is under way in the group: it needs no memory.
func (g *Group) Idle() bool { return g.Quiet() && len(g.pending) == 0 && len(g.txns) == 0 }

// Quiet tells whether at most pending members would be forgotten with the
// group; they can join anew.
func (g *Group) Quiet() bool {
	return len(g.members) == 0 && g.joinAt.IsZero() && len(g.asked) == 0
}

// Applied says that effects are durable: from now on offsets can be fetched, and transactions of which nothing
// is pending any more have ended.
func (g *Group) Applied(set map[kafka.TopicPartition]catalog.GroupOffset, del map[kafka.TopicPartition]bool, pending map[int64]catalog.PendingOffsets) {
	settled := func(tp kafka.TopicPartition, order int64) {
		if g.ahead[tp] == order {
			delete(g.ahead, tp)
		}
	}
	for tp, o := range set {
		g.offsets[tp] = o
		settled(tp, o.Order)
	}
	for tp := range del {
		delete(g.offsets, tp)
		settled(tp, 0)
	}
	for id, p := range pending {
		if len(p.Offsets) == 0 {
			delete(g.txns, id)
			delete(g.ending, id)
		}
	}
}

// Offset returns a durable offset.
func (g *Group) Offset(tp kafka.TopicPartition) (catalog.GroupOffset, bool) {
	o, ok := g.offsets[tp]
	return o, ok
}

// hold gives a group that was read its durable offsets, and those of open transactions.
func (g *Group) hold(offsets map[kafka.TopicPartition]catalog.GroupOffset, txns map[int64]catalog.PendingOffsets) {
	g.offsets, g.txns = offsets, txns
	for _, o := range offsets {
		g.order = max(g.order, o.Order)
	}
	for _, p := range txns {
		for _, o := range p.Offsets {
			g.order = max(g.order, o.Order)
		}
	}
}

// committed returns the offsets of a commit that happens now, with its order.
func (g *Group) committed(offsets map[kafka.TopicPartition]catalog.GroupOffset) map[kafka.TopicPartition]catalog.GroupOffset {
	g.order++
	out := make(map[kafka.TopicPartition]catalog.GroupOffset, len(offsets))
	for tp, o := range offsets {
		o.Order = g.order
		out[tp] = o
	}
	return out
}

// orderOf returns the order of a partition's offset, durable or not; 0: it has none, or of a time before there were orders.
func (g *Group) orderOf(tp kafka.TopicPartition) int64 {
	if n, ok := g.ahead[tp]; ok {
		return n
	}
	return g.offsets[tp].Order
}

func (g *Group) become(s State) { g.prev, g.state = g.state, s }

func (g *Group) add(m *Member) {
	if len(g.members) == 0 {
		g.leader = m.ID
	}
	g.members = append(g.members, m)
	g.byID[m.ID] = m
	if m.InstanceID != nil {
		g.static[*m.InstanceID] = m
	}
	delete(g.pending, m.ID)
}

// remove takes a member out. Requests of it that wait are told that it is unknown.
func (g *Group) remove(m *Member) {
	g.answerJoin(m, kafka.UnknownMemberID, Joined{Generation: -1})
	g.answerSync(m, kafka.UnknownMemberID)
	g.members = slices.DeleteFunc(g.members, func(x *Member) bool { return x == m })
	delete(g.byID, m.ID)
	delete(g.unsynced, m.ID)
	if m.InstanceID != nil && g.static[*m.InstanceID] == m {
		delete(g.static, *m.InstanceID)
	}
	if g.leader != m.ID {
		return
	}
	g.leader = ""
	if len(g.members) > 0 {
		g.leader = g.members[0].ID
	}
}

// check finds a member as a request names it.
func (g *Group) check(id string, instance *string) (*Member, kafka.ErrorCode) {
	if instance != nil {
		m, ok := g.static[*instance]
		if !ok {
			return nil, kafka.UnknownMemberID
		}
		if m.ID != id {
			return nil, kafka.FencedInstanceID
		}
	}
	m, ok := g.byID[id]
	if !ok {
		return nil, kafka.UnknownMemberID
	}
	return m, kafka.None
}

// supports tells whether a member with these protocols can be in the group.
func (g *Group) supports(protocolType string, protocols []Protocol) bool {
	if len(g.members) == 0 {
		return protocolType != "" && len(protocols) > 0
	}
	if protocolType != g.protocolType {
		return false
	}
	return slices.ContainsFunc(protocols, func(p Protocol) bool { return g.all(p.Name) })
}

func (g *Group) all(protocol string) bool {
	for _, m := range g.members {
		if !m.offers(protocol) {
			return false
		}
	}
	return true
}

// choose returns the protocol that most members prefer among those that all
// have; the first member's order decides a tie.
func (g *Group) choose() string {
	if len(g.members) == 0 {
		return ""
	}
	votes := make(map[string]int)
	var common []string
	for _, p := range g.members[0].Protocols {
		if g.all(p.Name) && !slices.Contains(common, p.Name) {
			common = append(common, p.Name)
		}
	}
	for _, m := range g.members {
		for _, p := range m.Protocols {
			if slices.Contains(common, p.Name) {
				votes[p.Name]++
				break
			}
		}
	}
	best := ""
	for _, name := range common {
		if best == "" || votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

func (g *Group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.Rebalance)
	}
	return d
}

func (g *Group) joining() int {
	n := 0
	for _, m := range g.members {
		if m.join != 0 {
			n++
		}
	}
	return n
}

func (g *Group) reply(t Token, when When, code kafka.ErrorCode, body any) {
	if t != 0 {
		g.out.Replies = append(g.out.Replies, Reply{Token: t, When: when, Code: code, Body: body})
	}
}

func (g *Group) answerJoin(m *Member, code kafka.ErrorCode, j Joined) {
	when := Saved
	if code != kafka.None {
		when = Now
	}
	g.reply(m.join, when, code, j)
	m.join = 0
}

func (g *Group) answerSync(m *Member, code kafka.ErrorCode) {
	if code == kafka.None {
		g.reply(m.sync, Saved, code, Synced{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.Assignment})
	} else {
		g.reply(m.sync, Now, code, nil)
	}
	m.sync = 0
}
