package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// member is a member of the group. It speaks the group's protocol itself, with a
// client's requests: the client's own member waits for the network with mutexes
// held that others wait for, and that stops the bubble's time.
type member struct {
	w          *world
	cl         *client
	id         string
	generation int32
	assigned   []int32         // partitions of keptTopic
	done       map[int32]int64 // of each: what is to be committed next
	acked      map[int32]int64 // and was
}

const (
	sessionTimeout = 6 * time.Second
	joinTimeout    = 15 * time.Second
)

// consume is a member's place in the group: one member after the other, each for
// some time, the last until ctx ends.
func (w *world) consume(ctx context.Context, id int) {
	stream := fmt.Sprintf("member %d", id)
	for ctx.Err() == nil {
		span := time.Second + w.dice.upTo(stream, 20*time.Second)
		if w.cluster.faults.isCalm() {
			span = time.Hour
		}
		life, cancel := context.WithTimeout(ctx, span)
		m := &member{w: w, cl: w.client()}
		m.run(life)
		if !w.dice.oneIn(stream, 3) { // else it vanishes
			m.leave(ctx)
		}
		cancel()
		m.cl.Close()
	}
}

// run joins, consumes and joins again, until ctx ends.
func (m *member) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.join(ctx)
		if err == nil {
			err = m.own(ctx)
		}
		switch {
		case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.FencedInstanceID):
			m.id = ""
		case err != nil && !errors.Is(err, kerr.RebalanceInProgress):
			wait(ctx, 200*time.Millisecond)
		}
	}
}

// join gets the member an id, a generation and its partitions.
func (m *member) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = group, m.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(sessionTimeout.Milliseconds()), int32(sessionTimeout.Milliseconds())
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{keptTopic}
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: meta.AppendTo(nil)}}
	joined, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(joined.ErrorCode); err != nil {
		if errors.Is(err, kerr.MemberIDRequired) {
			m.id = joined.MemberID
			return kerr.RebalanceInProgress // again, with the id
		}
		return err
	}
	m.id, m.generation = joined.MemberID, joined.Generation
	return m.sync(ctx, joined)
}

// sync learns the member's partitions, and tells all theirs if it leads.
func (m *member) sync(ctx context.Context, joined *kmsg.JoinGroupResponse) error {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = group, m.id, m.generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	if joined.LeaderID == m.id {
		for i, other := range joined.Members {
			a := kmsg.NewConsumerMemberAssignment()
			topic := kmsg.NewConsumerMemberAssignmentTopic()
			topic.Topic = keptTopic
			for p := i; p < partitions; p += len(joined.Members) {
				topic.Partitions = append(topic.Partitions, int32(p))
			}
			a.Topics = append(a.Topics, topic)
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: other.MemberID, MemberAssignment: a.AppendTo(nil)})
		}
	}
	synced, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(synced.ErrorCode); err != nil {
		return err
	}
	var mine kmsg.ConsumerMemberAssignment
	if err := mine.ReadFrom(synced.MemberAssignment); err != nil {
		return err
	}
	m.assigned = nil
	for _, t := range mine.Topics {
		m.assigned = append(m.assigned, t.Partitions...)
	}
	return nil
}

// own consumes the member's partitions and commits, until the group rebalances
// or ctx ends.
func (m *member) own(ctx context.Context) error {
	from, err := m.resume(ctx)
	if err != nil {
		return err
	}
	cl := m.w.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{keptTopic: from}), kgo.FetchMaxWait(500*time.Millisecond))
	defer cl.Close()
	for ctx.Err() == nil {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		m.w.consumed(cl.PollFetches(poll), m.done)
		cancel()
		if err := m.commit(ctx); err != nil {
			return err
		}
		if err := m.heartbeat(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// resume asks where to begin, and holds that against what is known.
func (m *member) resume(ctx context.Context) (map[int32]kgo.Offset, error) {
	m.w.mu.Lock()
	floors := maps.Clone(m.w.group.acked)
	m.w.mu.Unlock()
	fetched, err := kadm.NewClient(m.cl.Client).FetchOffsets(ctx, group)
	if err = errors.Join(err, fetched.Error()); err != nil {
		return nil, err // from a broker that has slept since the topic was made, it may be
	}
	m.done, m.acked = make(map[int32]int64), make(map[int32]int64)
	from := make(map[int32]kgo.Offset)
	for _, p := range m.assigned {
		at := int64(0) // nothing is committed
		if o, ok := fetched.Lookup(keptTopic, p); ok {
			at = max(at, o.At)
		}
		m.w.mu.Lock()
		m.w.group.resumed(p, at, floors[p])
		m.w.mu.Unlock()
		m.done[p], m.acked[p], from[p] = at, at, kgo.NewOffset().At(at)
	}
	return from, nil
}

// consumed notes what a member got.
func (w *world) consumed(fetches kgo.Fetches, done map[int32]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		if r.Offset != done[r.Partition] {
			w.group.report("group: partition %d: offset %d after %d", r.Partition, r.Offset, done[r.Partition])
		}
		w.group.consumed[place{r.Partition, r.Offset}] = string(r.Value)
		done[r.Partition] = r.Offset + 1
	})
}

// commit commits what was consumed since the last time.
func (m *member) commit(ctx context.Context) error {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = group, m.id, m.generation
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = keptTopic, m.w.kept
	m.w.mu.Lock()
	for p, off := range m.done {
		if off > m.acked[p] {
			at := kmsg.NewOffsetCommitRequestTopicPartition()
			at.Partition, at.Offset = p, off
			topic.Partitions = append(topic.Partitions, at)
			m.w.group.asked[p] = max(m.w.group.asked[p], off)
		}
	}
	m.w.mu.Unlock()
	if len(topic.Partitions) == 0 {
		return nil
	}
	slices.SortFunc(topic.Partitions, func(a, b kmsg.OffsetCommitRequestTopicPartition) int { return int(a.Partition - b.Partition) })
	req.Topics = append(req.Topics, topic)
	r, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	var errs []error
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for i, p := range r.Topics[0].Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			errs = append(errs, err)
			continue
		}
		off := topic.Partitions[i].Offset
		m.acked[p.Partition] = off
		m.w.group.acked[p.Partition] = max(m.w.group.acked[p.Partition], off)
	}
	return errors.Join(errs...)
}

func (m *member) heartbeat(ctx context.Context) error {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = group, m.id, m.generation
	r, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(r.ErrorCode)
}

func (m *member) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, m.id
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id}}
	_, _ = req.RequestWith(ctx, m.cl) // else its session times out
}
