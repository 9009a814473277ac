package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// Owner says whose a slot is.
type Owner struct {
	Session SessionID
	Epoch   kafka.LeaderEpoch // -1: it was never owned
}

// Member is a session as the change feed tells it.
type Member struct {
	ID      SessionID    `json:"id"`
	State   SessionState `json:"state"`
	Addr    string       `json:"addr"`
	Rack    string       `json:"rack"`
	Leaving bool         `json:"leaving,omitempty"` // it wants to own nothing any more
	Levels  Levels       `json:"levels,omitzero"`   // that its program works at; zero: 1 alone
}

// Members is an immutable snapshot of the sessions and of whose the slots are.
type Members struct {
	sessions  map[SessionID]Member
	owners    map[kafka.Slot]Owner
	placement Placement
}

func newMembers() *Members {
	return &Members{sessions: map[SessionID]Member{}, owners: map[kafka.Slot]Owner{}}
}

// Live returns the live sessions, by broker id and age.
func (m *Members) Live() []Member { return m.in(Live) }

// Fenced returns the sessions that were fenced and are not sealed yet.
func (m *Members) Fenced() []Member { return m.in(Fenced) }

func (m *Members) in(state SessionState) []Member {
	var all []Member
	for _, s := range m.sessions {
		if s.State == state {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return a.ID.compare(b.ID) })
	return all
}

// Session returns a session that is not sealed.
func (m *Members) Session(id SessionID) (Member, bool) {
	s, ok := m.sessions[id]
	return s, ok
}

// Owner returns whose a slot is.
func (m *Members) Owner(s kafka.Slot) Owner {
	if o, ok := m.owners[s]; ok {
		return o
	}
	return Owner{Epoch: -1}
}

// Owners returns whose the slots 0 to n-1 are.
func (m *Members) Owners(n int) []Owner {
	all := make([]Owner, n)
	for s := range all {
		all[s] = m.Owner(kafka.Slot(s))
	}
	return all
}

// Placement returns what operators have asked for.
func (m *Members) Placement() Placement { return m.placement }

// with returns a copy that has seen a session's change. States only go
// forward, so an older change than what is known is passed over.
func (m *Members) with(s Member) *Members {
	if known, ok := m.sessions[s.ID]; ok && s.State.rank() < known.State.rank() {
		return m
	}
	next := *m
	next.sessions = maps.Clone(m.sessions)
	if s.State == Sealed {
		delete(next.sessions, s.ID)
	} else {
		next.sessions[s.ID] = s
	}
	return &next
}

// owned returns a copy that has seen slots change hands.
func (m *Members) owned(changes []ownerChange) *Members {
	next := *m
	next.owners = maps.Clone(m.owners)
	for _, c := range changes {
		if c.Epoch > m.Owner(c.Slot).Epoch {
			next.owners[c.Slot] = Owner{c.Session, c.Epoch}
		}
	}
	return &next
}

// ownerChange is a slot's part of an entry of the change feed.
type ownerChange struct {
	Slot    kafka.Slot        `json:"n"`
	Session SessionID         `json:"s"`
	Epoch   kafka.LeaderEpoch `json:"e"`
}

func ownerChanges(slots []Slot) []ownerChange {
	all := make([]ownerChange, len(slots))
	for i, s := range slots {
		all[i] = ownerChange{s.Slot, s.Owner, s.Epoch}
	}
	return all
}

// Kinds of changes that are about members.
const (
	changeSession   = "session"
	changeSlots     = "slots"
	changePlacement = "placement"
)

// apply applies a change that is about members.
func (m *Members) apply(kind, value string) (*Members, error) {
	var err error
	switch kind {
	case changeSession:
		var s Member
		if err = json.Unmarshal([]byte(value), &s); err == nil {
			return m.with(s), nil
		}
	case changeSlots:
		var slots []ownerChange
		if err = json.Unmarshal([]byte(value), &slots); err == nil {
			return m.owned(slots), nil
		}
	case changePlacement:
		var p Placement
		if err = json.Unmarshal([]byte(value), &p); err == nil {
			next := *m
			next.placement = p
			return &next, nil
		}
	}
	return m, err
}

// loadMembers reads the members anew.
func (c *Catalog) loadMembers(ctx context.Context) (*Members, error) {
	m := newMembers()
	sessions, err := c.AllSessions(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		if s.State != Sealed {
			m.sessions[s.ID] = s.member()
		}
	}
	slots, err := c.Slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		m.owners[s.Slot] = Owner{s.Owner, s.Epoch}
	}
	if _, m.placement, err = c.placement(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Placement is what operators ask for, which goes before balance, and what
// balance by load does.
type Placement struct {
	Drained []int32              `json:"drained,omitempty"` // brokers that should own nothing
	Pins    map[kafka.Slot]int32 `json:"pins,omitempty"`    // slots that should be with a broker
	Moves   map[kafka.Slot]int32 `json:"moves,omitempty"`   // slots that change places for balance
}

func (c *Catalog) placement(ctx context.Context) (meta.Item, Placement, error) {
	var p Placement
	item, err := c.get(ctx, "cluster", "placement")
	if err != nil || item.Version == 0 {
		return item, p, err
	}
	f := read(item)
	f.json("placement", &p)
	return item, p, f.err
}

// AlterPlacement changes what operators ask for. fn is given a copy; it may be
// called again.
func (c *Catalog) AlterPlacement(ctx context.Context, fn func(*Placement)) error {
	e := entry{kind: changePlacement}
	_, err := c.change(ctx, &e, func(*Topics) ([]meta.Op, error) {
		item, p, err := c.placement(ctx)
		if err != nil {
			return nil, err
		}
		fn(&p)
		e.value = jsonText(p)
		return []meta.Op{meta.Put(item, meta.Attrs{"v": format, "placement": e.value})}, nil
	})
	if err != nil {
		return fmt.Errorf("alter placement: %w", err)
	}
	return nil
}
