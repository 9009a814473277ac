package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// The group APIs: the coordinator does the work, here are only its doors.
//
//	8 OffsetCommit 2–10      9 OffsetFetch 1–10     11 JoinGroup 0–9     12 Heartbeat 0–4
//	13 LeaveGroup 0–5        14 SyncGroup 0–5       15 DescribeGroups 0–6
//	16 ListGroups 0–5        42 DeleteGroups 0–2    47 OffsetDelete 0

func (s *Server) offsetCommit(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.OffsetCommit(ctx, r.msg.(*kmsg.OffsetCommitRequest))
}

func (s *Server) offsetFetch(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.OffsetFetch(ctx, r.msg.(*kmsg.OffsetFetchRequest))
}

func (s *Server) joinGroup(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Join(ctx, r.msg.(*kmsg.JoinGroupRequest), r.clientID(), r.conn.host)
}

func (s *Server) heartbeat(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Heartbeat(ctx, r.msg.(*kmsg.HeartbeatRequest))
}

func (s *Server) leaveGroup(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Leave(ctx, r.msg.(*kmsg.LeaveGroupRequest))
}

func (s *Server) syncGroup(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Sync(ctx, r.msg.(*kmsg.SyncGroupRequest))
}

func (s *Server) describeGroups(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Describe(ctx, r.msg.(*kmsg.DescribeGroupsRequest))
}

func (s *Server) listGroups(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.List(ctx, r.msg.(*kmsg.ListGroupsRequest))
}

func (s *Server) deleteGroups(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.Delete(ctx, r.msg.(*kmsg.DeleteGroupsRequest))
}

func (s *Server) offsetDelete(ctx context.Context, r *request) kmsg.Response {
	return s.o.Groups.OffsetDelete(ctx, r.msg.(*kmsg.OffsetDeleteRequest))
}

// FindCoordinator, versions 0 to 6; from 4 on several keys. Types: 0 group, 1
// transaction, 2 share (not here).
func (s *Server) findCoordinator(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.FindCoordinatorRequest)
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	if r.Version < 4 {
		resp.NodeID, resp.Host, resp.Port, resp.ErrorCode = s.coordinator(req.CoordinatorType, r.Version)
		return resp
	}
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key = key
		c.NodeID, c.Host, c.Port, c.ErrorCode = s.coordinator(req.CoordinatorType, r.Version)
		resp.Coordinators = append(resp.Coordinators, c)
	}
	return resp
}

func (s *Server) coordinator(kind int8, version int16) (id int32, host string, port int32, code int16) {
	if kind == 0 || kind == 1 && version >= 1 {
		return s.o.Self.ID, s.o.Self.Host, s.o.Self.Port, 0
	}
	return -1, "", -1, int16(kafka.InvalidRequest)
}
