package txn

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// markTimeout bounds one attempt at markers, here or at another broker.
const markTimeout = 5 * time.Second

// Marker tells partitions and groups how a producer's transaction has ended.
//
// Between brokers it travels as a WriteTxnMarkers request (27), version 1. What
// Kafka's has no field for is in a tagged field of the marker, as JSON: its presence
// tells that the coordinator's epoch is the transaction's number. The answer
// has the groups' codes in a field with the same tag.
type Marker struct {
	ProducerID int64
	Epoch      int16
	Commit     bool
	Number     int32 // in place of Kafka's coordinator epoch
	Numbered   bool  // it is; false: an administrator's, who knows of no numbers
	Partitions []kafka.TopicPartition
	Groups     []string
}

// markerTag is the number of the tagged field.
const markerTag = 10_000

type markerGroups struct {
	Groups []string `json:"groups,omitempty"`
}

type markedGroups struct {
	Codes []kafka.ErrorCode `json:"codes,omitempty"` // in the order of the marker's groups
}

// marked is what has become of a marker: codes in its order.
type marked struct {
	partitions, groups []kafka.ErrorCode
}

func unmarked(m Marker, code kafka.ErrorCode) marked {
	all := marked{make([]kafka.ErrorCode, len(m.Partitions)), make([]kafka.ErrorCode, len(m.Groups))}
	for i := range all.partitions {
		all.partitions[i] = code
	}
	for i := range all.groups {
		all.groups[i] = code
	}
	return all
}

// WriteTxnMarkers handles WriteTxnMarkers, version 1: from other brokers, and from
// administrators that abort what hangs.
func (c *Coordinator) WriteTxnMarkers(ctx context.Context, req *kmsg.WriteTxnMarkersRequest) *kmsg.WriteTxnMarkersResponse {
	resp := req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	for i := range req.Markers {
		resp.Markers = append(resp.Markers, c.writeMarker(ctx, &req.Markers[i]))
	}
	return resp
}

func (c *Coordinator) writeMarker(ctx context.Context, rm *kmsg.WriteTxnMarkersRequestMarker) kmsg.WriteTxnMarkersResponseMarker {
	m := Marker{ProducerID: rm.ProducerID, Epoch: rm.ProducerEpoch, Commit: rm.Committed, Number: rm.CoordinatorEpoch}
	rm.UnknownTags.Each(func(tag uint32, b []byte) {
		var groups markerGroups
		if tag == markerTag && json.Unmarshal(b, &groups) == nil {
			m.Numbered, m.Groups = true, groups.Groups
		}
	})
	out := kmsg.NewWriteTxnMarkersResponseMarker()
	out.ProducerID = rm.ProducerID
	topics := c.o.Catalog.Topics()
	var at []*int16 // the rows of m.Partitions
	for _, t := range rm.Topics {
		rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.WriteTxnMarkersResponseMarkerTopicPartition, len(t.Partitions))
		topic, ok := topics.ByName(t.Topic)
		for i, p := range t.Partitions {
			row := &rt.Partitions[i]
			row.Partition = p
			if !ok || p < 0 || p >= topic.Partitions {
				row.ErrorCode = int16(kafka.UnknownTopicOrPartition)
				continue
			}
			m.Partitions = append(m.Partitions, kafka.TopicPartition{Topic: topic.ID, Partition: p})
			at = append(at, &row.ErrorCode)
		}
		out.Topics = append(out.Topics, rt)
	}
	codes := unmarked(m, kafka.InvalidRequest)
	if len(m.Groups) <= maxGroups {
		codes = c.mark(ctx, m)
	}
	for i, row := range at {
		*row = int16(codes.partitions[i])
	}
	if m.Numbered {
		b, err := json.Marshal(markedGroups{codes.groups})
		if err == nil { // there is nothing in it that could fail
			out.UnknownTags.Set(markerTag, b)
		}
	}
	return out
}

// mark enters a marker into the logs that this broker leads, and tells it to
// the groups that it coordinates; all of it is durable where the code is NONE.
func (c *Coordinator) mark(ctx context.Context, m Marker) marked {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	codes := unmarked(m, kafka.None)
	var groups sync.WaitGroup
	for i, g := range m.Groups {
		groups.Go(func() { codes.groups[i] = c.o.Groups.EndTxn(ctx, g, m.ProducerID, m.Number, m.Commit) })
	}
	c.wake(ctx, m.Partitions)
	logs := make([]*partition.Log, len(m.Partitions))
	last := make([]kafka.Offset, len(m.Partitions))
	now := time.Now()
	for i, tp := range m.Partitions {
		l, ok := c.o.Logs.Get(tp)
		if !ok {
			codes.partitions[i] = kafka.NotLeaderOrFollower
			continue
		}
		a, err := l.AppendMarker(partition.Marker{ProducerID: m.ProducerID, Epoch: m.Epoch, Commit: m.Commit, Number: m.Number, Numbered: m.Numbered}, now)
		if codes.partitions[i] = markCode(err); err == nil {
			logs[i], last[i] = l, a.Last
		}
	}
	for i, l := range logs {
		if l != nil {
			codes.partitions[i] = markCode(l.AwaitDurable(ctx, last[i]))
		}
	}
	groups.Wait()
	return codes
}

// wake waits a moment until those of the partitions are open that are dormant here.
func (c *Coordinator) wake(ctx context.Context, tps []kafka.TopicPartition) {
	if c.o.Wake == nil {
		return
	}
	c.o.Wake(ctx, func(yield func(kafka.Slot) bool) {
		topics, count := c.o.Catalog.Topics(), c.o.Cluster().Slots()
		for _, tp := range tps {
			if t, ok := topics.ByID(tp.Topic); ok && !yield(kafka.PartitionSlot(t.Name, tp.Partition, count)) {
				return
			}
		}
	})
}

// deliver sends a marker to all that have it to take, and returns it for those
// that have not taken it yet.
func (c *Coordinator) deliver(ctx context.Context, m Marker) (left Marker) {
	ctx, cancel := context.WithTimeout(ctx, 2*markTimeout)
	defer cancel()
	topics, err := c.topics(ctx, m)
	if err != nil {
		return m
	}
	cluster := c.o.Cluster()
	parts := make(map[int32]*Marker)
	of := func(slot kafka.Slot) *Marker {
		id, _ := cluster.Leader(slot)
		if _, ok := cluster.Broker(id); !ok || c.o.Peers == nil {
			id = c.o.Self
		}
		if parts[id] == nil {
			part := m
			part.Partitions, part.Groups = nil, nil
			parts[id] = &part
		}
		return parts[id]
	}
	for _, tp := range m.Partitions {
		if t, ok := topics.ByID(tp.Topic); ok { // else it was deleted, with what was written to it
			p := of(kafka.PartitionSlot(t.Name, tp.Partition, c.o.Slots))
			p.Partitions = append(p.Partitions, tp)
		}
	}
	for _, g := range m.Groups {
		p := of(c.slot(g))
		p.Groups = append(p.Groups, g)
	}
	left = m
	left.Partitions, left.Groups = nil, nil
	var mu sync.Mutex
	var sending sync.WaitGroup
	for id, part := range parts {
		sending.Go(func() {
			var codes marked
			if b, ok := cluster.Broker(id); ok && id != c.o.Self {
				codes = c.ask(ctx, b, *part, topics)
			} else {
				codes = c.mark(ctx, *part)
			}
			mu.Lock()
			defer mu.Unlock()
			c.keep(&left, *part, codes)
		})
	}
	sending.Wait()
	return left
}

// topics returns topics among which all of a marker's are that there still are.
func (c *Coordinator) topics(ctx context.Context, m Marker) (*catalog.Topics, error) {
	topics := c.o.Catalog.Topics()
	missing := func(tp kafka.TopicPartition) bool { _, ok := topics.ByID(tp.Topic); return !ok }
	if slices.ContainsFunc(m.Partitions, missing) {
		if err := c.o.Catalog.Refresh(ctx); err != nil {
			return nil, err
		}
		topics = c.o.Catalog.Topics()
	}
	return topics, nil
}

// keep notes in left what of a part has to be sent again.
func (c *Coordinator) keep(left *Marker, part Marker, codes marked) {
	for i, tp := range part.Partitions {
		switch code := codes.partitions[i]; code {
		case kafka.None:
		case kafka.InvalidProducerEpoch, kafka.TransactionCoordinatorFenced: // a later marker has ended it there
			c.o.Logger.Warn("a log refuses a marker as too old", "partition", tp.String(), "producer_id", part.ProducerID, "epoch", part.Epoch, "err", code)
		default:
			left.Partitions = append(left.Partitions, tp)
		}
	}
	for i, g := range part.Groups {
		if codes.groups[i] != kafka.None {
			left.Groups = append(left.Groups, g)
		}
	}
}

// ask sends a marker to another broker.
func (c *Coordinator) ask(ctx context.Context, b member.Broker, m Marker, topics *catalog.Topics) marked {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.SetVersion(1)
	rm := kmsg.NewWriteTxnMarkersRequestMarker()
	rm.ProducerID, rm.ProducerEpoch, rm.Committed, rm.CoordinatorEpoch = m.ProducerID, m.Epoch, m.Commit, m.Number
	for _, tp := range m.Partitions {
		t, _ := topics.ByID(tp.Topic)
		if n := len(rm.Topics); n == 0 || rm.Topics[n-1].Topic != t.Name {
			rt := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
			rt.Topic = t.Name
			rm.Topics = append(rm.Topics, rt)
		}
		rt := &rm.Topics[len(rm.Topics)-1]
		rt.Partitions = append(rt.Partitions, tp.Partition)
	}
	tag, err := json.Marshal(markerGroups{m.Groups})
	if err != nil {
		return unmarked(m, kafka.UnknownServerError)
	}
	rm.UnknownTags.Set(markerTag, tag)
	req.Markers = append(req.Markers, rm)
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	resp, err := c.o.Peers.Ask(ctx, b.Addr(), req)
	if err != nil {
		c.o.Logger.Debug("send markers", "to", b.ID, "err", err)
		return unmarked(m, kafka.NetworkException)
	}
	return answered(m, resp.(*kmsg.WriteTxnMarkersResponse), topics)
}

// answered reads another broker's answer. What it does not speak of is not marked.
func answered(m Marker, resp *kmsg.WriteTxnMarkersResponse, topics *catalog.Topics) marked {
	codes := unmarked(m, kafka.NetworkException)
	if len(resp.Markers) != 1 {
		return codes
	}
	rm := &resp.Markers[0]
	told := make(map[kafka.TopicPartition]kafka.ErrorCode)
	for _, rt := range rm.Topics {
		if t, ok := topics.ByName(rt.Topic); ok {
			for _, p := range rt.Partitions {
				told[kafka.TopicPartition{Topic: t.ID, Partition: p.Partition}] = kafka.ErrorCode(p.ErrorCode)
			}
		}
	}
	for i, tp := range m.Partitions {
		if code, ok := told[tp]; ok {
			codes.partitions[i] = code
		}
	}
	rm.UnknownTags.Each(func(tag uint32, b []byte) {
		var groups markedGroups
		if tag == markerTag && json.Unmarshal(b, &groups) == nil && len(groups.Codes) == len(m.Groups) {
			codes.groups = groups.Codes
		}
	})
	return codes
}

// markCode is the code of an append's or wait's error.
func markCode(err error) kafka.ErrorCode {
	var code kafka.ErrorCode
	switch {
	case err == nil:
		return kafka.None
	case errors.As(err, &code):
		return code
	}
	return kafka.RequestTimedOut
}
