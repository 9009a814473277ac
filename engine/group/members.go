package group

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

const (
	maxGroupID  = 1000    // bytes; the catalogue's keys end soon after
	maxMetadata = 1 << 20 // bytes of all protocols that one member offers
)

// ValidID tells whether a group's id can be: not empty, except where Kafka
// still lets old simple consumers have it so.
func ValidID(id string, emptyToo bool) bool {
	return (id != "" || emptyToo) && len(id) <= maxGroupID && utf8.ValidString(id)
}

// validStrings tells whether the strings of a join, which other members and observers are told, are UTF-8.
func validStrings(req *kmsg.JoinGroupRequest) bool {
	for _, p := range req.Protocols {
		if !utf8.ValidString(p.Name) {
			return false
		}
	}
	return utf8.ValidString(req.MemberID) && utf8.ValidString(req.ProtocolType) && (req.InstanceID == nil || utf8.ValidString(*req.InstanceID))
}

// Join handles JoinGroup, versions 0 to 9. It waits for the rebalance.
func (c *Coordinator) Join(ctx context.Context, req *kmsg.JoinGroupRequest, clientID, clientHost string) *kmsg.JoinGroupResponse {
	cfg := c.o.Config()
	session := time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	rebalance := time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond
	if req.Version == 0 {
		rebalance = session
	}
	protocols, ok := cloneProtocols(req.Protocols)
	switch {
	case !ValidID(req.Group, false):
		return joinResponse(req, Reply{Code: kafka.InvalidGroupID})
	case !validStrings(req):
		return joinResponse(req, Reply{Code: kafka.InvalidRequest})
	case session < cfg.GroupMinSessionTimeout || session > cfg.GroupMaxSessionTimeout:
		return joinResponse(req, Reply{Code: kafka.InvalidSessionTimeout})
	case !ok:
		return joinResponse(req, Reply{Code: kafka.UnknownServerError})
	}
	r := Join{
		MemberID: req.MemberID, InstanceID: req.InstanceID,
		ClientID: strings.ToValidUTF8(clientID, "?"), ClientHost: clientHost,
		Session: session, Rebalance: max(rebalance, 0), ProtocolType: req.ProtocolType, Protocols: protocols,
		NewID: newID(), RequireID: req.Version >= 4, SkipAssignment: req.Version >= 9,
	}
	return joinResponse(req, c.call(ctx, req.Group, func(t Token) Event { r.Token = t; return r }))
}

// cloneProtocols copies them out of the request's buffer.
func cloneProtocols(all []kmsg.JoinGroupRequestProtocol) ([]Protocol, bool) {
	size := 0
	protocols := make([]Protocol, len(all))
	for i, p := range all {
		if size += len(p.Name) + len(p.Metadata); size > maxMetadata {
			return nil, false
		}
		protocols[i] = Protocol{Name: strings.Clone(p.Name), Metadata: bytes.Clone(p.Metadata)}
	}
	return protocols, true
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func joinResponse(req *kmsg.JoinGroupRequest, r Reply) *kmsg.JoinGroupResponse {
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	j, ok := r.Body.(Joined)
	if !ok {
		j = refused(req.MemberID)
	}
	resp.ErrorCode = int16(r.Code)
	resp.MemberID, resp.Generation, resp.LeaderID, resp.SkipAssignment = j.MemberID, j.Generation, j.Leader, j.SkipAssignment
	resp.ProtocolType, resp.Protocol = j.ProtocolType, j.Protocol
	if resp.Protocol == nil && req.Version < 7 {
		resp.Protocol = kmsg.StringPtr("")
	}
	for _, m := range j.Members {
		rm := kmsg.NewJoinGroupResponseMember()
		rm.MemberID, rm.InstanceID, rm.ProtocolMetadata = m.ID, m.InstanceID, m.Metadata
		resp.Members = append(resp.Members, rm)
	}
	return resp
}

// Sync handles SyncGroup, versions 0 to 5. It waits for the leader's assignment.
func (c *Coordinator) Sync(ctx context.Context, req *kmsg.SyncGroupRequest) *kmsg.SyncGroupResponse {
	resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
	switch {
	case !ValidID(req.Group, false):
		resp.ErrorCode = int16(kafka.InvalidGroupID)
		return resp
	case req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil):
		resp.ErrorCode = int16(kafka.InconsistentGroupProtocol)
		return resp
	}
	s := Sync{
		MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
		ProtocolType: req.ProtocolType, Protocol: req.Protocol, Assignments: make(map[string][]byte, len(req.GroupAssignment)),
	}
	for _, a := range req.GroupAssignment {
		s.Assignments[a.MemberID] = bytes.Clone(a.MemberAssignment)
	}
	r := c.call(ctx, req.Group, func(t Token) Event { s.Token = t; return s })
	resp.ErrorCode = int16(r.Code)
	if body, ok := r.Body.(Synced); ok {
		resp.ProtocolType, resp.Protocol, resp.MemberAssignment = &body.ProtocolType, &body.Protocol, body.Assignment
	}
	return resp
}

// Heartbeat handles Heartbeat, versions 0 to 4.
func (c *Coordinator) Heartbeat(ctx context.Context, req *kmsg.HeartbeatRequest) *kmsg.HeartbeatResponse {
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	if !ValidID(req.Group, false) {
		resp.ErrorCode = int16(kafka.InvalidGroupID)
		return resp
	}
	r := c.call(ctx, req.Group, func(t Token) Event {
		return Heartbeat{Token: t, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation}
	})
	resp.ErrorCode = int16(r.Code)
	return resp
}

// Leave handles LeaveGroup, versions 0 to 5: from 3 on several members, each
// with a code of its own.
func (c *Coordinator) Leave(ctx context.Context, req *kmsg.LeaveGroupRequest) *kmsg.LeaveGroupResponse {
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	if !ValidID(req.Group, false) {
		resp.ErrorCode = int16(kafka.InvalidGroupID)
		return resp
	}
	l := Leave{Members: []Leaver{{MemberID: req.MemberID}}}
	if req.Version >= 3 {
		l.Members = make([]Leaver, len(req.Members))
		for i, m := range req.Members {
			l.Members[i] = Leaver{MemberID: m.MemberID, InstanceID: m.InstanceID}
		}
	}
	r := c.call(ctx, req.Group, func(t Token) Event { l.Token = t; return l })
	codes, ok := r.Body.([]kafka.ErrorCode)
	switch {
	case r.Code != kafka.None || !ok:
		resp.ErrorCode = int16(r.Code)
	case req.Version < 3:
		resp.ErrorCode = int16(codes[0])
	default:
		for i, m := range req.Members {
			rm := kmsg.NewLeaveGroupResponseMember()
			rm.MemberID, rm.InstanceID, rm.ErrorCode = m.MemberID, m.InstanceID, int16(codes[i])
			resp.Members = append(resp.Members, rm)
		}
	}
	return resp
}
