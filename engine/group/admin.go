package group

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	// groupType is what ListGroups calls these groups (KIP-848).
	groupType  = "classic"
	maxListed  = 100_000 // groups in an answer
	memberSize = 256     // in bytes, of a member in an answer, beside its metadata and assignment
	tooMuch    = "The answer would be too large: ask for fewer groups at once."
)

// Describe handles DescribeGroups, versions 0 to 6. A group that is not there
// is Dead, from 6 on with GROUP_ID_NOT_FOUND. What a caller may do with the groups
// is for others to fill in.
func (c *Coordinator) Describe(ctx context.Context, req *kmsg.DescribeGroupsRequest) *kmsg.DescribeGroupsResponse {
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	var room wire.Room
	each(len(req.Groups), func(i int) {
		rg := &resp.Groups[i]
		if i < maxGroups {
			if *rg = c.describe(ctx, req.Groups[i], req.Version); room.Take(describedSize(rg)) {
				return
			}
		}
		*rg = kmsg.NewDescribeGroupsResponseGroup()
		rg.Group, rg.ErrorCode, rg.ErrorMessage = req.Groups[i], int16(kafka.InvalidRequest), kmsg.StringPtr(tooMuch)
	})
	return resp
}

// describedSize returns about what a group's members take in an answer.
func describedSize(rg *kmsg.DescribeGroupsResponseGroup) (n int) {
	for i := range rg.Members {
		m := &rg.Members[i]
		n += memberSize + len(m.ProtocolMetadata) + len(m.MemberAssignment)
	}
	return n
}

func (c *Coordinator) describe(ctx context.Context, id string, version int16) kmsg.DescribeGroupsResponseGroup {
	rg := kmsg.NewDescribeGroupsResponseGroup()
	rg.Group = id
	if !ValidID(id, true) {
		rg.ErrorCode = int16(kafka.InvalidGroupID)
		return rg
	}
	var seen kmsg.DescribeGroupsResponseGroup
	if code := c.view(ctx, id, Saved, func(g *Group) bool { seen = g.describe(); return true }); code != kafka.None {
		rg.ErrorCode = int16(code)
		return rg
	}
	seen.Group = id
	if seen.State == Dead.String() && version >= 6 {
		seen.ErrorCode = int16(kafka.GroupIDNotFound)
		seen.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("Group %s not found.", id))
	}
	return seen
}

// describe tells metadata and assignments of a stable group only, as Kafka does.
func (g *Group) describe() kmsg.DescribeGroupsResponseGroup {
	rg := kmsg.NewDescribeGroupsResponseGroup()
	if !g.Exists() {
		rg.State = Dead.String()
		return rg
	}
	rg.State, rg.ProtocolType = g.state.String(), g.protocolType
	if g.state == Stable {
		rg.Protocol = g.protocol
	}
	for _, m := range g.members {
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.ClientID, rm.ClientHost = m.ID, m.InstanceID, m.ClientID, m.ClientHost
		if g.state == Stable {
			rm.ProtocolMetadata, rm.MemberAssignment = m.metadata(g.protocol), m.Assignment
		}
		rg.Members = append(rg.Members, rm)
	}
	return rg
}

// List handles ListGroups, versions 0 to 5: from 4 on filtered by state, from
// 5 on by type; both ignore case. Of groups that are not in memory the state is
// read from the catalogue, by one List at a time.
func (c *Coordinator) List(ctx context.Context, req *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	if !wanted(req.TypesFilter, groupType) {
		return resp
	}
	select {
	case c.listing <- struct{}{}:
		defer func() { <-c.listing }()
	case <-ctx.Done():
		resp.ErrorCode = int16(kafka.CoordinatorNotAvailable)
		return resp
	}
	groups := make(map[string]kmsg.ListGroupsResponseGroup)
	for _, slot := range c.o.Slots() {
		if err := c.listSlot(ctx, slot, groups); err != nil {
			c.o.Logger.Warn("list groups", "slot", slot.Slot, "error", err)
			resp.ErrorCode = int16(kafka.CoordinatorNotAvailable)
			return resp
		}
		if len(groups) > maxListed {
			c.o.Logger.Warn("list groups: too many", "most", maxListed)
			resp.ErrorCode = int16(kafka.InvalidRequest)
			return resp
		}
	}
	c.each(func(e *entry) { // in memory is newer, and some are not saved yet
		if e.group == nil {
			return
		}
		delete(groups, e.id)
		if e.group.Exists() {
			groups[e.id] = e.group.listed(e.id)
		}
	})
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		if g := groups[id]; wanted(req.StatesFilter, g.GroupState) {
			resp.Groups = append(resp.Groups, g)
		}
	}
	return resp
}

func wanted(filter []string, s string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(strings.TrimSpace(f), s) })
}

func (g *Group) listed(id string) kmsg.ListGroupsResponseGroup {
	l := kmsg.NewListGroupsResponseGroup()
	l.Group, l.ProtocolType, l.GroupState, l.GroupType = id, g.protocolType, g.state.String(), groupType
	return l
}

// listSlot reads a slot's groups, without keeping them in memory.
func (c *Coordinator) listSlot(ctx context.Context, slot catalog.Slot, groups map[string]kmsg.ListGroupsResponseGroup) error {
	ids, err := c.groups(ctx, slot.Slot)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var failed error
	each(len(ids), func(i int) {
		if c.loaded(ids[i]) {
			return
		}
		g, err := c.peek(ctx, ids[i])
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			failed = err
		case g.Exists():
			groups[ids[i]] = g.listed(ids[i])
		}
	})
	return failed
}

func (c *Coordinator) loaded(id string) bool {
	e := c.entry(id, false)
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.gone && e.group != nil
}

// Delete handles DeleteGroups, versions 0 to 2.
func (c *Coordinator) Delete(ctx context.Context, req *kmsg.DeleteGroupsRequest) *kmsg.DeleteGroupsResponse {
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
	each(len(req.Groups), func(i int) {
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = req.Groups[i]
		switch {
		case i >= maxGroups:
			rg.ErrorCode = int16(kafka.InvalidRequest)
		case !ValidID(rg.Group, true):
			rg.ErrorCode = int16(kafka.InvalidGroupID)
		default:
			rg.ErrorCode = int16(c.call(ctx, rg.Group, func(t Token) Event { return Delete{Token: t} }).Code)
		}
		resp.Groups[i] = rg
	})
	return resp
}
