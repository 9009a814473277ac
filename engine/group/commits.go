package group

import (
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// OffsetCommit handles OffsetCommit, versions 0 to 10; from 10 on topics are
// named by id. Partitions that do not exist have their code whatever the group says.
func (c *Coordinator) OffsetCommit(ctx context.Context, req *kmsg.OffsetCommitRequest) *kmsg.OffsetCommitResponse {
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	commit := Commit{
		MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation, NewErrors: req.Version >= 9,
		Offsets: make(map[kafka.TopicPartition]catalog.GroupOffset),
	}
	if req.Version == 0 {
		commit.Generation = -1
	}
	asked := c.checkCommit(req, resp, commit.Offsets)
	if len(asked) == 0 {
		return resp
	}
	code := kafka.InvalidGroupID
	if ValidID(req.Group, true) {
		code = c.call(ctx, req.Group, func(t Token) Event { commit.Token = t; return commit }).Code
	}
	if code != kafka.None {
		for _, p := range asked {
			*p = int16(code)
		}
	}
	return resp
}

// checkCommit fills resp with the codes of what can be told without the group,
// and offsets with what is left. It returns where the group's code goes.
func (c *Coordinator) checkCommit(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, offsets map[kafka.TopicPartition]catalog.GroupOffset) (asked []*int16) {
	limit := c.o.Config().OffsetMetadataMaxBytes
	now := time.Now().UnixMilli()
	for i := range req.Topics {
		t := &req.Topics[i]
		topic, missing := c.topic(t.Topic, t.TopicID, req.Version >= 10)
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p, rp := &t.Partitions[j], &rt.Partitions[j]
			rp.Partition = p.Partition
			if topic == nil || p.Partition < 0 || p.Partition >= topic.Partitions {
				rp.ErrorCode = int16(missing)
				continue
			}
			asked = append(asked, &rp.ErrorCode)
			if p.Metadata != nil && tooLarge(*p.Metadata, limit) {
				rp.ErrorCode = int16(kafka.OffsetMetadataTooLarge)
				continue
			}
			offsets[kafka.TopicPartition{Topic: topic.ID, Partition: p.Partition}] = groupOffset(req, p, now)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return asked
}

// maxMetadataJSON lets 64 neighbouring partitions fit the catalogue's item.
const maxMetadataJSON = 6000

// tooLarge tells whether metadata is longer than limit, as Java counts, or
// than can be stored.
func tooLarge(metadata string, limit int) bool {
	if len(metadata) > maxMetadataJSON || utf16Len(metadata) > limit {
		return true
	}
	const worst = 6 // bytes of JSON that one byte may become
	if len(metadata) <= maxMetadataJSON/worst {
		return false
	}
	text, err := json.Marshal(metadata)
	return err != nil || len(text) > maxMetadataJSON
}

func utf16Len(s string) int {
	n := 0
	for _, r := range s {
		n += utf16.RuneLen(r)
	}
	return n
}

func groupOffset(req *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition, now int64) catalog.GroupOffset {
	o := catalog.GroupOffset{Offset: kafka.Offset(p.Offset), LeaderEpoch: -1, CommitMs: now}
	if req.Version >= 6 {
		o.LeaderEpoch = kafka.LeaderEpoch(p.LeaderEpoch)
	}
	if p.Metadata != nil {
		o.Metadata = strings.Clone(*p.Metadata)
	}
	if req.Version >= 2 && req.Version <= 4 && req.RetentionTimeMillis >= 0 {
		o.ExpireMs = max(now+req.RetentionTimeMillis, 1)
	}
	return o
}

// topic finds a topic by name or id; nil with the code for its absence. The
// code is that of a missing partition otherwise.
func (c *Coordinator) topic(name string, id [16]byte, byID bool) (*catalog.Topic, kafka.ErrorCode) {
	topics := c.o.Catalog.Topics()
	if byID {
		if t, ok := topics.ByID(id); ok {
			return t, kafka.UnknownTopicOrPartition
		}
		return nil, kafka.UnknownTopicID
	}
	t, ok := topics.ByName(name)
	if !ok {
		return nil, kafka.UnknownTopicOrPartition
	}
	return t, kafka.UnknownTopicOrPartition
}

// OffsetDelete handles OffsetDelete, version 0.
func (c *Coordinator) OffsetDelete(ctx context.Context, req *kmsg.OffsetDeleteRequest) *kmsg.OffsetDeleteResponse {
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	if !ValidID(req.Group, false) {
		resp.ErrorCode = int16(kafka.InvalidGroupID)
		return resp
	}
	ev := DeleteOffsets{Topics: make([]TopicOffsets, len(req.Topics))}
	for i, t := range req.Topics {
		ev.Topics[i].Name = t.Topic
		topic, missing := c.topic(t.Topic, [16]byte{}, false)
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition = p.Partition
			if topic == nil || p.Partition < 0 || p.Partition >= topic.Partitions {
				rp.ErrorCode = int16(missing)
			} else {
				ev.Topics[i].All = append(ev.Topics[i].All, kafka.TopicPartition{Topic: topic.ID, Partition: p.Partition})
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	r := c.call(ctx, req.Group, func(t Token) Event { ev.Token = t; return ev })
	codes, ok := r.Body.([]kafka.ErrorCode)
	if r.Code != kafka.None || !ok {
		resp.ErrorCode, resp.Topics = int16(r.Code), nil
		return resp
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if p := &resp.Topics[i].Partitions[j]; p.ErrorCode == 0 {
				p.ErrorCode = int16(codes[i])
			}
		}
	}
	return resp
}
