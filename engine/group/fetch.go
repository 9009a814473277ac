package group

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	groupsAtOnce = 8      // of one request
	maxGroups    = 10_000 // of one request: each may have to be read from the catalogue
	offsetSize   = 64     // in bytes, of an offset in an answer, beside its metadata
)

// OffsetFetch handles OffsetFetch, versions 0 to 10: from 8 on several groups,
// from 10 on topics by id. No topics (null) are all that have offsets. What was
// not committed, and a group that is not there, have offset -1 without error. From 7
// on who wants stable offsets is refused those that a transaction may yet change (KIP-447).
func (c *Coordinator) OffsetFetch(ctx context.Context, req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version < 8 {
		c.fetchOne(ctx, req, resp)
		return resp
	}
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(req.Groups))
	var room wire.Room
	each(len(req.Groups), func(i int) {
		g := &req.Groups[i]
		resp.Groups[i] = kmsg.NewOffsetFetchResponseGroup()
		resp.Groups[i].Group = g.Group
		if i >= maxGroups {
			resp.Groups[i].ErrorCode = int16(kafka.InvalidRequest)
			return
		}
		topics, code := c.fetch(ctx, g.Group, g.Topics, lookup{byID: req.Version >= 10, stable: req.RequireStable})
		if !room.Take(offsetsSize(topics)) {
			topics, code = nil, kafka.InvalidRequest
		}
		resp.Groups[i].Topics, resp.Groups[i].ErrorCode = topics, int16(code)
	})
	return resp
}

// offsetsSize returns about what a group's offsets take in an answer.
func offsetsSize(topics []kmsg.OffsetFetchResponseGroupTopic) (n int) {
	for i := range topics {
		n += offsetSize
		for j := range topics[i].Partitions {
			n += offsetSize + len(*topics[i].Partitions[j].Metadata)
		}
	}
	return n
}

// each calls f for 0 … n-1, some at once, and waits.
func each(n int, f func(i int)) {
	var g errgroup.Group
	g.SetLimit(groupsAtOnce)
	for i := range n {
		g.Go(func() error { f(i); return nil })
	}
	_ = g.Wait() // no errors
}

// fetchOne answers the versions with one group. Before 2, errors are the
// partitions'.
func (c *Coordinator) fetchOne(ctx context.Context, req *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse) {
	var want []kmsg.OffsetFetchRequestGroupTopic
	for _, t := range req.Topics {
		g := kmsg.NewOffsetFetchRequestGroupTopic()
		g.Topic, g.Partitions = t.Topic, t.Partitions
		want = append(want, g)
	}
	if want == nil && (req.Topics != nil || req.Version < 2) {
		want = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	topics, code := c.fetch(ctx, req.Group, want, lookup{stable: req.RequireStable})
	if code != kafka.None && req.Version < 2 {
		topics = refusedOffsets(want, code)
	}
	resp.ErrorCode = int16(code)
	for _, t := range topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
}

// lookup is how offsets are wanted.
type lookup struct {
	byID   bool // topics are named by id
	stable bool // not those that a transaction may yet change
}

// fetch returns a group's offsets of the topics that are wanted, nil: of all.
func (c *Coordinator) fetch(ctx context.Context, id string, want []kmsg.OffsetFetchRequestGroupTopic, how lookup) ([]kmsg.OffsetFetchResponseGroupTopic, kafka.ErrorCode) {
	if !ValidID(id, true) {
		return nil, kafka.InvalidGroupID
	}
	var topics []kmsg.OffsetFetchResponseGroupTopic
	code := c.view(ctx, id, Confirmed, func(g *Group) (unstable bool) {
		if topics = nil; want == nil {
			topics = c.allOffsets(g, how)
		}
		for i := range want {
			topics = append(topics, c.topicOffsets(g, &want[i], how))
		}
		return slices.ContainsFunc(topics, func(t kmsg.OffsetFetchResponseGroupTopic) bool {
			return slices.ContainsFunc(t.Partitions, func(p kmsg.OffsetFetchResponseGroupTopicPartition) bool {
				return p.ErrorCode == int16(kafka.UnstableOffsetCommit)
			})
		})
	})
	if code != kafka.None {
		return nil, code
	}
	return topics, kafka.None
}

func (c *Coordinator) topicOffsets(g *Group, want *kmsg.OffsetFetchRequestGroupTopic, how lookup) kmsg.OffsetFetchResponseGroupTopic {
	rt := kmsg.NewOffsetFetchResponseGroupTopic()
	rt.Topic, rt.TopicID = want.Topic, want.TopicID
	topic, missing := c.topic(want.Topic, want.TopicID, how.byID)
	for _, n := range want.Partitions {
		switch {
		case topic != nil:
			rt.Partitions = append(rt.Partitions, offsetOf(g, kafka.TopicPartition{Topic: topic.ID, Partition: n}, how))
		case how.byID:
			rt.Partitions = append(rt.Partitions, noOffset(n, missing))
		default: // a name without topic has nothing committed
			rt.Partitions = append(rt.Partitions, noOffset(n, kafka.None))
		}
	}
	return rt
}

func (c *Coordinator) allOffsets(g *Group, how lookup) []kmsg.OffsetFetchResponseGroupTopic {
	topics := c.o.Catalog.Topics()
	all := []kmsg.OffsetFetchResponseGroupTopic{}
	for _, tp := range slices.SortedFunc(maps.Keys(g.offsets), kafka.TopicPartition.Compare) {
		t, ok := topics.ByID(tp.Topic)
		if !ok {
			continue // deleted; expiry removes it
		}
		if len(all) == 0 || all[len(all)-1].TopicID != [16]byte(tp.Topic) {
			rt := kmsg.NewOffsetFetchResponseGroupTopic()
			rt.Topic, rt.TopicID = t.Name, tp.Topic
			all = append(all, rt)
		}
		last := &all[len(all)-1]
		last.Partitions = append(last.Partitions, offsetOf(g, tp, how))
	}
	return all
}

func offsetOf(g *Group, tp kafka.TopicPartition, how lookup) kmsg.OffsetFetchResponseGroupTopicPartition {
	if how.stable && g.unstable(tp) {
		return noOffset(tp.Partition, kafka.UnstableOffsetCommit)
	}
	p := noOffset(tp.Partition, kafka.None)
	if o, ok := g.Offset(tp); ok {
		p.Offset, p.LeaderEpoch, p.Metadata = int64(o.Offset), int32(o.LeaderEpoch), &o.Metadata
	}
	return p
}

func noOffset(partition int32, code kafka.ErrorCode) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode = partition, -1, -1, kmsg.StringPtr(""), int16(code)
	return p
}

func refusedOffsets(want []kmsg.OffsetFetchRequestGroupTopic, code kafka.ErrorCode) []kmsg.OffsetFetchResponseGroupTopic {
	var all []kmsg.OffsetFetchResponseGroupTopic
	for _, w := range want {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic = w.Topic
		for _, n := range w.Partitions {
			rt.Partitions = append(rt.Partitions, noOffset(n, code))
		}
		all = append(all, rt)
	}
	return all
}
