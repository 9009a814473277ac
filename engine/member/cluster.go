package member

import (
	"net"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Broker is a broker as clients are told.
type Broker struct {
	ID   int32
	Host string
	Port int32
	Rack string // "": none
}

// Cluster is who serves, and whose which slot is, as one snapshot of the
// catalogue has it. It is immutable.
type Cluster struct {
	Brokers []Broker // by id
	live    []catalog.SessionID
	leaving []catalog.SessionID
	owners  []catalog.Owner
	targets []catalog.SessionID // nil: nobody lives
}

// NewCluster returns the cluster of so many slots that a snapshot shows.
func NewCluster(m *catalog.Members, slots int) *Cluster {
	c := &Cluster{owners: m.Owners(slots)}
	placement := m.Placement()
	var nodes []Node
	for _, s := range m.Live() {
		c.live = append(c.live, s.ID)
		if s.Leaving {
			c.leaving = append(c.leaving, s.ID)
		}
		nodes = append(nodes, Node{s.ID, s.Rack, s.Leaving || slices.Contains(placement.Drained, s.ID.Broker)})
		if b, ok := brokerOf(s); ok {
			c.Brokers = slices.DeleteFunc(c.Brokers, func(older Broker) bool { return older.ID == b.ID })
			c.Brokers = append(c.Brokers, b)
		}
	}
	c.targets = Assign(nodes, c.owners, placement.Pins)
	return c
}

func brokerOf(s catalog.Member) (Broker, bool) {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return Broker{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return Broker{ID: s.ID.Broker, Host: host, Port: int32(n), Rack: s.Rack}, err == nil
}

// Live returns the live sessions, by broker id and age.
func (c *Cluster) Live() []catalog.SessionID { return c.live }

// Lives tells whether a session is live.
func (c *Cluster) Lives(id catalog.SessionID) bool { return slices.Contains(c.live, id) }

// Leaves tells whether a live session has announced that it will end.
func (c *Cluster) Leaves(id catalog.SessionID) bool { return slices.Contains(c.leaving, id) }

// Slots returns the number of slots.
func (c *Cluster) Slots() int { return len(c.owners) }

// Owner returns whose a slot is.
func (c *Cluster) Owner(s kafka.Slot) catalog.Owner { return c.owners[s] }

// Target returns the session that should own a slot; false: nobody lives.
func (c *Cluster) Target(s kafka.Slot) (catalog.SessionID, bool) {
	if c.targets == nil {
		return catalog.SessionID{}, false
	}
	return c.targets[s], true
}

// Leader returns the broker that leads a slot's partitions, or, during a
// takeover, will lead them, and the epoch that the catalogue has; -1 where nobody lives.
func (c *Cluster) Leader(s kafka.Slot) (broker int32, epoch kafka.LeaderEpoch) {
	o := c.owners[s]
	if o.Epoch >= 0 && c.Lives(o.Session) {
		return o.Session.Broker, o.Epoch
	}
	if to, ok := c.Target(s); ok {
		return to.Broker, o.Epoch
	}
	return -1, o.Epoch
}

// Replicas returns the leader of a slot and those that come next in ring
// order, up to n: each could take over without loss.
func (c *Cluster) Replicas(s kafka.Slot, n int) []int32 {
	leader, _ := c.Leader(s)
	at := slices.IndexFunc(c.Brokers, func(b Broker) bool { return b.ID == leader })
	if at < 0 {
		return []int32{}
	}
	var ids []int32
	for i := range min(max(n, 1), len(c.Brokers)) {
		ids = append(ids, c.Brokers[(at+i)%len(c.Brokers)].ID)
	}
	return ids
}

// Broker returns a broker; false: it is not live.
func (c *Cluster) Broker(id int32) (Broker, bool) {
	i := slices.IndexFunc(c.Brokers, func(b Broker) bool { return b.ID == id })
	if i < 0 {
		return Broker{}, false
	}
	return c.Brokers[i], true
}

// View returns the cluster of the moment, and works it out once for each snapshot.
type View struct {
	Catalog *catalog.Catalog
	Slots   int
	last    atomic.Pointer[seen]
}

type seen struct {
	members *catalog.Members
	cluster *Cluster
}

// Now returns the cluster as the catalogue's newest snapshot has it.
func (v *View) Now() *Cluster {
	m := v.Catalog.Members()
	if last := v.last.Load(); last != nil && last.members == m {
		return last.cluster
	}
	c := NewCluster(m, v.Slots)
	v.last.Store(&seen{m, c})
	return c
}
