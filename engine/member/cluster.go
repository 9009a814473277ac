package member

import (
	"maps"
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
	Brokers []Broker // by id, but for those that are silent
	Silent  []Broker // by id
	live    []catalog.SessionID
	silent  []catalog.SessionID
	leaving []catalog.SessionID
	staying []catalog.SessionID // of each broker the newest session, unless it leaves
	owners  []catalog.Owner
	targets []catalog.SessionID // nil: nobody lives
	nodes   []Node
	pins    map[kafka.Slot]int32
}

// NewCluster returns the cluster of so many slots that a snapshot shows, some sessions of which are silent.
func NewCluster(m *catalog.Members, slots int, silent ...catalog.SessionID) *Cluster {
	c := &Cluster{owners: m.Owners(slots), silent: silent}
	placement := m.Placement()
	c.pins = placement.Pins
	for _, s := range m.Live() {
		c.live = append(c.live, s.ID)
		c.staying = slices.DeleteFunc(c.staying, func(older catalog.SessionID) bool { return older.Broker == s.ID.Broker })
		if s.Leaving {
			c.leaving = append(c.leaving, s.ID)
		} else {
			c.staying = append(c.staying, s.ID)
		}
		c.nodes = append(c.nodes, Node{s.ID, s.Rack, s.Leaving || slices.Contains(placement.Drained, s.ID.Broker)})
		switch b, ok := brokerOf(s); {
		case !ok:
		case slices.Contains(silent, s.ID):
			c.Silent = append(c.Silent, b)
		default:
			c.Brokers = slices.DeleteFunc(c.Brokers, func(older Broker) bool { return older.ID == b.ID })
			c.Brokers = append(c.Brokers, b)
		}
	}
	where := maps.Clone(placement.Moves)
	if where == nil {
		where = make(map[kafka.Slot]int32)
	}
	maps.Copy(where, placement.Pins)
	c.targets = Assign(c.nodes, c.owners, where)
	return c
}

// Settled tells whether all slots are where they should be.
func (c *Cluster) Settled() bool {
	for s, o := range c.owners {
		if to, ok := c.Target(kafka.Slot(s)); !ok || o.Epoch < 0 || o.Session != to {
			return false
		}
	}
	return true
}

// Ownerless tells whether slots wait for a live session to take them.
func (c *Cluster) Ownerless() bool {
	return slices.ContainsFunc(c.owners, func(o catalog.Owner) bool { return o.Epoch < 0 || !c.Lives(o.Session) })
}

// Rebalance returns the slots that should change places for their load.
func (c *Cluster) Rebalance(load map[catalog.SessionID]catalog.Load) map[kafka.Slot]int32 {
	return Rebalance(c.nodes, c.owners, c.pins, load)
}

// Addr returns the host:port at which a broker is reached.
func (b Broker) Addr() string { return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) }

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

// Heir returns the session that ends another, and takes its slots for all that should have them: the one before it
// on the ring, which watches it, but for those that leave or are in except, of a broker's sessions the
// newest; false: there is none.
func (c *Cluster) Heir(of catalog.SessionID, except ...catalog.SessionID) (catalog.SessionID, bool) {
	others := slices.DeleteFunc(slices.Clone(c.staying), func(id catalog.SessionID) bool { return id == of || slices.Contains(except, id) })
	if len(others) == 0 {
		return catalog.SessionID{}, false
	}
	behind := after(others, of, len(others))
	return behind[len(behind)-1], true
}

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
// takeover, will lead them, and the epoch that the catalogue has; -1 where that broker is silent, or nobody lives.
func (c *Cluster) Leader(s kafka.Slot) (broker int32, epoch kafka.LeaderEpoch) {
	o := c.owners[s]
	leader, ok := o.Session, o.Epoch >= 0 && c.Lives(o.Session)
	if !ok {
		leader, ok = c.Target(s)
	}
	if !ok || slices.Contains(c.silent, leader) {
		return -1, o.Epoch
	}
	return leader.Broker, o.Epoch
}

// Replicas returns the leader of a slot, if it has one, and, up to n in all, brokers that
// could take over without loss: one of each other rack first, else in ring order, from
// another place on for each slot.
func (c *Cluster) Replicas(s kafka.Slot, n int) []int32 {
	leader, _ := c.Leader(s)
	at := slices.IndexFunc(c.Brokers, func(b Broker) bool { return b.ID == leader })
	ids, racks, others := []int32{}, []string{}, len(c.Brokers)
	if at >= 0 {
		ids, racks, others = append(ids, leader), append(racks, c.Brokers[at].Rack), others-1
	}
	for _, spread := range []bool{true, false} {
		for i := 0; i < others && len(ids) < n; i++ {
			b := c.Brokers[(at+1+(int(s)+i)%others)%len(c.Brokers)]
			if slices.Contains(ids, b.ID) || spread && slices.Contains(racks, b.Rack) {
				continue
			}
			ids, racks = append(ids, b.ID), append(racks, b.Rack)
		}
	}
	return ids
}

// ReplicaIn returns the first of a slot's n replicas that is in a rack.
func (c *Cluster) ReplicaIn(s kafka.Slot, n int, rack string) (id int32, ok bool) {
	for _, id := range c.Replicas(s, n) {
		if b, ok := c.Broker(id); ok && b.Rack == rack {
			return id, true
		}
	}
	return -1, false
}

// Broker returns a broker; false: it is not live, or silent.
func (c *Cluster) Broker(id int32) (Broker, bool) {
	i := slices.IndexFunc(c.Brokers, func(b Broker) bool { return b.ID == id })
	if i < 0 {
		return Broker{}, false
	}
	return c.Brokers[i], true
}

// View returns the cluster of the moment, and works it out once for each snapshot
// and each change of who is silent.
type View struct {
	Catalog *catalog.Catalog
	Slots   int
	silent  atomic.Pointer[[]catalog.SessionID]
	last    atomic.Pointer[seen]
}

type seen struct {
	members *catalog.Members
	silent  *[]catalog.SessionID
	cluster *Cluster
}

// Silent takes in which sessions have not been heard of for so long that clients
// should not be sent to them (Watch.Silent), and tells whether they are others than before.
func (v *View) Silent(ids []catalog.SessionID) (changed bool) {
	if slices.Equal(ids, pointed(v.silent.Load())) {
		return false
	}
	v.silent.Store(&ids)
	return true
}

// Now returns the cluster as the catalogue's newest snapshot has it.
func (v *View) Now() *Cluster {
	m, silent := v.Catalog.Members(), v.silent.Load()
	if last := v.last.Load(); last != nil && last.members == m && last.silent == silent {
		return last.cluster
	}
	c := NewCluster(m, v.Slots, pointed(silent)...)
	v.last.Store(&seen{m, silent, c})
	return c
}

func pointed(ids *[]catalog.SessionID) []catalog.SessionID {
	if ids == nil {
		return nil
	}
	return *ids
}
