package group

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// A group's value in the catalogue:
//
//	byte  0   version, 1
//	byte  1   0: the document as it is; 1: deflated
//	from  2   the document, JSON: savedGroup
//
// Offsets are items of their own. What only waits (requests, pending members,
// sessions) is not saved: clients ask again.
const (
	codecVersion = 1
	plain        = 0
	deflated     = 1
	deflateFrom  = 8 << 10  // bytes of a document that is worth deflating
	maxDocument  = 64 << 20 // bytes
)

// errCorrupt means that a group's value cannot be read.
var errCorrupt = errors.New("corrupt group state")

// fence names the ownership of the slot under which a state was written.
type fence struct {
	Broker  int32             `json:"b"`
	Session int64             `json:"s"`
	Epoch   kafka.LeaderEpoch `json:"e"`
}

func fenceOf(s catalog.Slot) fence {
	return fence{Broker: s.Owner.Broker, Session: s.Owner.Epoch, Epoch: s.Epoch}
}

type savedGroup struct {
	Fence        fence         `json:"fence"`
	State        State         `json:"state"`
	Generation   int32         `json:"gen"`
	ProtocolType string        `json:"type,omitempty"`
	Protocol     string        `json:"proto,omitempty"`
	Leader       string        `json:"leader,omitempty"`
	EmptySinceMs int64         `json:"empty,omitempty"`
	Members      []savedMember `json:"members,omitempty"`
}

type savedMember struct {
	ID          string     `json:"id"`
	InstanceID  *string    `json:"inst,omitempty"`
	ClientID    string     `json:"client"`
	ClientHost  string     `json:"host"`
	SessionMs   int64      `json:"session"`
	RebalanceMs int64      `json:"rebalance"`
	Protocols   []Protocol `json:"protos"`
	Assignment  []byte     `json:"assign,omitempty"`
}

func encode(g *Group, f fence) []byte {
	s := savedGroup{
		Fence: f, State: g.state, Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol,
		Leader: g.leader, EmptySinceMs: g.emptySince.UnixMilli(),
	}
	for _, m := range g.members {
		s.Members = append(s.Members, savedMember{
			ID: m.ID, InstanceID: m.InstanceID, ClientID: m.ClientID, ClientHost: m.ClientHost,
			SessionMs: m.Session.Milliseconds(), RebalanceMs: m.Rebalance.Milliseconds(),
			Protocols: m.Protocols, Assignment: m.Assignment,
		})
	}
	doc, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("encode group: %v", err)) // strings, numbers and bytes only
	}
	if len(doc) < deflateFrom {
		return append([]byte{codecVersion, plain}, doc...)
	}
	b := bytes.NewBuffer([]byte{codecVersion, deflated})
	w, _ := flate.NewWriter(b, flate.BestSpeed) // the level is valid, and a buffer takes all
	_, _ = w.Write(doc)
	_ = w.Close()
	return b.Bytes()
}

func decode(b []byte) (*Group, fence, error) {
	var s savedGroup
	doc, err := document(b)
	if err == nil {
		err = json.Unmarshal(doc, &s)
	}
	if err == nil && (s.State < Empty || s.State > Stable || len(s.Members) > maxMembers || s.State == Empty && len(s.Members) > 0) {
		err = fmt.Errorf("state %d with %d members", s.State, len(s.Members))
	}
	if err != nil {
		return nil, fence{}, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	g := NewGroup()
	g.created, g.state, g.prev = true, s.State, Stable
	g.generation, g.protocolType, g.protocol = s.Generation, s.ProtocolType, s.Protocol
	g.emptySince = time.UnixMilli(s.EmptySinceMs)
	for _, m := range s.Members {
		if g.byID[m.ID] != nil || m.InstanceID != nil && g.static[*m.InstanceID] != nil {
			return nil, fence{}, fmt.Errorf("%w: member %q twice", errCorrupt, m.ID)
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

func document(b []byte) ([]byte, error) {
	if len(b) < 2 || b[0] != codecVersion || b[1] != plain && b[1] != deflated {
		return nil, errors.New("no such version")
	}
	if b[1] == plain {
		return b[2:], nil
	}
	doc, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b[2:])), maxDocument+1))
	if err == nil && len(doc) > maxDocument {
		err = fmt.Errorf("over %d bytes", maxDocument)
	}
	return doc, err
}

// resume goes on with a group as it was saved: members have their whole
// session to be heard from, and a rebalance that was under way its whole time.
// Answers that were not given are asked for again: by a join with the same
// protocols, which is answered with the generation, or by a sync.
func (g *Group) resume(now time.Time) {
	if len(g.members) == 0 && g.state != Empty { // only pending members had been left
		g.state, g.emptySince = Empty, now
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
}
