package api

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/peer"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// A consumer in this broker's rack reads here what another broker leads
// (KIP-392). Its leader is asked where the records lie, by a Fetch in this broker's
// name (fetch_lead.go), and they are read from the object store:
//
//	consumer ─Fetch─▶ follower ─Fetch as replica─▶ leader
//	                     │      ◀──── places ──────┘
//	                     └─ object cache, cold reader ─▶ records
//
// The leader decides all that a leader decides: epochs, watermarks, how long to
// wait. Where it cannot be asked the consumer is sent back to it.

const (
	askVersion = 17              // of the Fetch that asks
	askGrace   = 2 * time.Second // for an answer, beyond what was to be waited for
)

// Follow is what reading for other brokers takes.
type Follow struct {
	Peers *peer.Pool
	Cache partition.Cache
	Cold  partition.Cold
}

// lead is what one fetch reads of another broker's.
type lead struct {
	broker Broker
	parts  []int     // of the fetch
	bytes  int64     // that the newest answer named
	asking *question // under way; nil: none
}

// question is one under way. resp and err are there when done is closed.
type question struct {
	cancel context.CancelFunc
	done   chan struct{}
	resp   *kmsg.FetchResponse
	err    error
}

// far is a partition of a fetch that another broker leads, as that has said last.
type far struct {
	tp    kafka.TopicPartition
	lead  *lead // nil: it is not far
	place partition.Place
	err   kafka.ErrorCode
}

// follow makes a partition that another broker leads one that is read here, if
// the consumer is in this broker's rack.
func (f *fetching) follow(t *catalog.Topic, i int) bool {
	if f.s.o.Follow == nil || f.replica || f.req.Version < 11 || f.req.Rack == "" || f.req.Rack != f.s.o.Self.Rack {
		return false
	}
	c, p := f.s.o.Cluster(), f.parts[i].key.partition
	id, _ := c.Leader(slotOf(c, t, p))
	b, ok := c.Broker(id)
	if !ok || id == f.s.o.Self.ID {
		return false
	}
	if f.far == nil {
		f.far = make([]far, len(f.parts))
	}
	l := f.leadOf(b)
	l.parts = append(l.parts, i)
	f.far[i] = far{tp: kafka.TopicPartition{Topic: t.ID, Partition: p}, lead: l}
	return true
}

// astray returns the leader for a consumer with a rack that knows the leader's epoch
// and has come here all the same: it was sent here when this broker was in its rack, and franz-go
// leaves only for a replica that is named. -1: it finds the leader by itself.
func (f *fetching) astray(t *catalog.Topic, p *fetchPart) int32 {
	if f.s.o.Follow == nil || f.replica || f.req.Version < 11 || f.req.Rack == "" {
		return -1
	}
	c := f.s.o.Cluster()
	id, epoch := c.Leader(slotOf(c, t, p.key.partition))
	if id == f.s.o.Self.ID || p.epoch != int32(epoch) {
		return -1
	}
	return id
}

func (f *fetching) leadOf(b Broker) *lead {
	for _, l := range f.leads {
		if l.broker == b {
			return l
		}
	}
	f.leads = append(f.leads, &lead{broker: b})
	return f.leads[len(f.leads)-1]
}

// isFar tells whether another broker leads a partition that is read here.
func (f *fetching) isFar(i int) bool { return f.far != nil && f.far[i].lead != nil }

// askAll asks the leaders who are not being asked; they may wait so long for
// more than they have told already.
func (f *fetching) askAll(ctx context.Context, wait time.Duration) {
	for _, l := range f.leads {
		if l.asking != nil {
			continue
		}
		req := f.askFor(l.parts, wait)
		req.MinBytes = int32(min(l.bytes+1, 1<<30))
		ctx, cancel := context.WithTimeout(ctx, wait+askGrace)
		a := &question{cancel: cancel, done: make(chan struct{})}
		l.asking = a
		go func() { // awaited by collect or stopAsking
			defer close(a.done)
			a.resp, a.err = f.s.ask(ctx, l.broker, req)
		}()
	}
}

// ask asks a leader one question.
func (s *Server) ask(ctx context.Context, leader Broker, req *kmsg.FetchRequest) (*kmsg.FetchResponse, error) {
	resp, err := s.o.Follow.Peers.Ask(ctx, leader.Addr(), req)
	if err != nil {
		s.metrics.asksFailed.Inc()
		s.o.Logger.Debug("ask a leader for its consumer", "leader", leader.ID, "err", err)
		return nil, err
	}
	return resp.(*kmsg.FetchResponse), nil
}

// askFor makes the request for some partitions of the fetch.
func (f *fetching) askFor(parts []int, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(askVersion)
	req.ReplicaState.ID, req.SessionEpoch, req.IsolationLevel = f.s.o.Self.ID, -1, f.req.IsolationLevel
	req.MaxWaitMillis, req.MaxBytes = int32(wait.Milliseconds()), f.req.MaxBytes
	for _, i := range parts {
		n, tp := len(req.Topics), f.far[i].tp
		if n == 0 || req.Topics[n-1].TopicID != tp.Topic {
			t := kmsg.NewFetchRequestTopic()
			t.TopicID = tp.Topic
			req.Topics = append(req.Topics, t)
			n++
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = tp.Partition, int64(f.parts[i].from), f.parts[i].epoch, f.parts[i].max
		req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, p)
	}
	return req
}

// collect takes in the answers that are there, or waits for all.
func (f *fetching) collect(all bool) {
	for _, l := range f.leads {
		if l.asking == nil {
			continue
		}
		if !all {
			select {
			case <-l.asking.done:
			default:
				continue
			}
		}
		<-l.asking.done
		f.take(l, l.asking)
		l.asking.cancel()
		l.asking = nil
	}
}

// take takes in a leader's answer.
func (f *fetching) take(l *lead, a *question) {
	rows := make(map[kafka.TopicPartition]*kmsg.FetchResponseTopicPartition, len(l.parts))
	if a.err == nil {
		for i := range a.resp.Topics {
			t := &a.resp.Topics[i]
			for j := range t.Partitions {
				rows[kafka.TopicPartition{Topic: t.TopicID, Partition: t.Partitions[j].Partition}] = &t.Partitions[j]
			}
		}
	}
	l.bytes = 0
	for _, i := range l.parts {
		x := &f.far[i]
		x.place, x.err = placeOf(rows[x.tp])
		l.bytes += x.place.Bytes()
	}
}

// placeOf returns what a leader's row says; without a row it is one to be asked again by the client itself.
func placeOf(row *kmsg.FetchResponseTopicPartition) (partition.Place, kafka.ErrorCode) {
	if row == nil {
		return partition.Place{}, kafka.NotLeaderOrFollower
	}
	code := kafka.ErrorCode(row.ErrorCode)
	if code != kafka.None && code != kafka.OffsetOutOfRange {
		return partition.Place{}, code
	}
	p, err := partition.ParsePlace(row.RecordBatches)
	if err != nil {
		return partition.Place{}, kafka.NotLeaderOrFollower
	}
	return p, code
}

// stopAsking gives up on what is still asked.
func (f *fetching) stopAsking() {
	for _, l := range f.leads {
		if l.asking != nil {
			l.asking.cancel()
			<-l.asking.done
			l.asking = nil
		}
	}
}

// prefetchFar reads together what readFar is about to want.
func (f *fetching) prefetchFar(ctx context.Context) {
	var places []partition.Place
	for i := range f.far {
		if f.isFar(i) {
			places = append(places, f.far[i].place)
		}
	}
	partition.PrefetchPlaces(ctx, f.s.o.Follow.Cache, places, f.arena)
}

// readFar is readOne for a partition that another broker leads.
func (f *fetching) readFar(ctx context.Context, i, limit int, first bool) (got int64, ok bool) {
	p, x, iso := &f.parts[i], &f.far[i], kafka.Isolation(f.req.IsolationLevel)
	if x.err != kafka.None {
		f.rows[i] = f.sendBack(i, x.err)
		return 0, false
	}
	if limit <= 0 && !first {
		f.rows[i] = row(p, partition.Result{HighWatermark: x.place.HighWatermark, LastStable: x.place.LastStable, LogStart: x.place.LogStart}, iso)
		return 0, true
	}
	known := true
	r := partition.Replica{TP: x.tp, Cache: f.s.o.Follow.Cache, Cold: f.s.o.Follow.Cold}
	res, err := r.Read(ctx, p.from, limit, iso, f.arena, func(from kafka.Offset) (partition.Place, error) {
		if known && from == p.from {
			known = false
			return x.place, nil
		}
		return f.locate(ctx, i, from)
	})
	if err != nil {
		f.rows[i] = f.sendBack(i, codeOf(err))
		return 0, false
	}
	f.s.metrics.followed.Add(float64(sizeOf(res.Bufs)))
	return f.fill(i, res, limit, first), true
}

// locate asks a leader again where one partition's records lie from an offset on.
func (f *fetching) locate(ctx context.Context, i int, from kafka.Offset) (partition.Place, error) {
	ctx, cancel := context.WithTimeout(ctx, askGrace)
	defer cancel()
	req := f.askFor([]int{i}, 0)
	req.Topics[0].Partitions[0].FetchOffset = int64(from)
	resp, err := f.s.ask(ctx, f.far[i].lead.broker, req)
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return partition.Place{}, kafka.NotLeaderOrFollower
	}
	place, code := placeOf(&resp.Topics[0].Partitions[0])
	if code != kafka.None {
		return place, code
	}
	return place, nil
}

// sendBack refuses what cannot be read here, and sends the consumer to the
// leader: Java and librdkafka go there by the error, franz-go by the replica
// that is named. Only what lies below the log's start is out of range for good.
func (f *fetching) sendBack(i int, code kafka.ErrorCode) wire.FetchPartition {
	p, x := &f.parts[i], &f.far[i]
	if code == kafka.OffsetOutOfRange && p.from >= x.place.LogStart {
		code = kafka.OffsetNotAvailable
	}
	row := f.failed(p, code)
	row.PreferredReadReplica = x.lead.broker.ID
	if code == kafka.OffsetOutOfRange {
		row.HighWatermark, row.LastStableOffset, row.LogStartOffset = x.place.HighWatermark, x.place.LastStable, x.place.LogStart
	}
	return row
}
