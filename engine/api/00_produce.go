package api

import (
	"context"
	"errors"
	"time"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// Produce (0), versions 3 to 13; 0 to 2 are advertised for old librdkafka
// clients, which look at the minimum to know about compression (KAFKA-18659).
//
//	v3  transactional id        v5  log start offset     v8  record errors (KIP-467)
//	v9  flexible                v10 leader hints         v13 topic ids
//
// acks=0 is not answered; an error then closes the connection. acks=1 is
// answered once appended, acks=all once durable. For what belongs to a transaction
// see produce_txn.go.

// minProduceTimeout is given to acks=all whatever the client allows: with one
// Kafka replica, any time is enough.
const minProduceTimeout = time.Second

// arriveTimeout is how long a request waits for partitions that are on their way
// here: longer than a hand-over takes, and shorter than clients mind.
const arriveTimeout = 500 * time.Millisecond

// producing is one request under way. The reader appends, the answerer finishes.
type producing struct {
	s        *Server
	req      *produceRequest
	resp     wire.ProduceResponse
	appended []appended
	doubtful []appended // batches that the log refused: true only if its session is live
	now      time.Time
	// of the request's own timeout, from its arrival
	cancel   context.CancelFunc
	patience time.Time // until when partitions that move are waited for; zero: none did yet
	txn      txnSeen   // of a request with a transactional id
}

// appended is a batch whose durability decides one partition's answer.
type appended struct {
	log  *partition.Log
	last kafka.Offset
	part *wire.ProducePartition
}

// produce appends, in order of arrival, and returns what waits and answers.
func (s *Server) produce(ctx context.Context, r *request, req *produceRequest) func(work, poll context.Context) reply {
	ctx, cancel := context.WithTimeout(ctx, max(time.Duration(req.timeoutMs)*time.Millisecond, minProduceTimeout))
	p := &producing{s: s, req: req, now: time.Now(), cancel: cancel}
	p.resp = wire.ProduceResponse{Version: r.Version, CorrelationID: r.CorrelationID, Topics: make([]wire.ProduceTopic, len(req.topics))}
	refused := p.admit(ctx)
	topics := s.o.Catalog.Topics()
	s.wake(ctx, func(yield func(*catalog.Topic, int32) bool) {
		for _, t := range req.topics {
			topic, code := lookup(topics, r.Version >= 13, t.name, t.id)
			for i := 0; code == kafka.None && i < len(t.parts); i++ {
				if !yield(topic, t.parts[i].index) {
					return
				}
			}
		}
	})
	if p.req.transactional && refused == kafka.None {
		p.askTxn(ctx, topics)
	}
	for i := range req.topics {
		t := &req.topics[i]
		out := &p.resp.Topics[i]
		out.Name, out.ID, out.Partitions = t.name, t.id, make([]wire.ProducePartition, len(t.parts))
		topic, code := lookup(topics, r.Version >= 13, t.name, t.id)
		if refused != kafka.None {
			code = refused
		}
		for j := range t.parts {
			row := &out.Partitions[j]
			*row = wire.ProducePartition{Partition: t.parts[j].index, Err: code, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
			if code == kafka.None {
				p.append(ctx, topic, t.parts[j].records, row)
			}
		}
	}
	return func(_, _ context.Context) reply { return p.finish(ctx, r.conn) }
}

// admit waits for room, and returns the error of the request as a whole.
func (p *producing) admit(ctx context.Context) kafka.ErrorCode {
	if p.req.acks < -1 || p.req.acks > 1 {
		return kafka.InvalidRequiredAcks
	}
	n := 0
	for i := range p.req.topics {
		for _, part := range p.req.topics[i].parts {
			n += len(part.records)
		}
	}
	err := p.s.o.Admit(ctx, n)
	var code kafka.ErrorCode
	switch {
	case err == nil:
		return kafka.None
	case errors.As(err, &code):
		return code
	case errors.Is(err, context.DeadlineExceeded):
		return kafka.RequestTimedOut
	}
	return kafka.NotLeaderOrFollower // the session is over; another one follows
}

// lookup finds a topic by id or by name, or the error for a missing one.
func lookup(topics *catalog.Topics, byID bool, name string, id kafka.TopicID) (*catalog.Topic, kafka.ErrorCode) {
	if byID {
		if t, ok := topics.ByID(id); ok {
			return t, kafka.None
		}
		return nil, kafka.UnknownTopicID
	}
	if t, ok := topics.ByName(name); ok {
		return t, kafka.None
	}
	return nil, kafka.UnknownTopicOrPartition
}

// log returns a partition's log, once it is awake, or the error for one that is not here.
func (s *Server) log(ctx context.Context, t *catalog.Topic, p int32) (*partition.Log, kafka.ErrorCode) {
	if p < 0 || p >= t.Partitions {
		return nil, kafka.UnknownTopicOrPartition
	}
	tp := kafka.TopicPartition{Topic: t.ID, Partition: p}
	l, ok := s.o.Logs.Get(tp)
	if !ok {
		s.wake(ctx, func(yield func(*catalog.Topic, int32) bool) { yield(t, p) })
		l, ok = s.o.Logs.Get(tp)
	}
	if !ok {
		return nil, kafka.NotLeaderOrFollower
	}
	return l, kafka.None
}

// arrives waits for a partition that is refused here because it moves, and
// tells whether it is here now. All partitions of the request share the time.
func (p *producing) arrives(ctx context.Context, t *catalog.Topic, partition int32) bool {
	if p.s.o.Arrives == nil {
		return false
	}
	if p.patience.IsZero() {
		p.patience = time.Now().Add(arriveTimeout)
	}
	ctx, cancel := context.WithDeadline(ctx, p.patience)
	defer cancel()
	return p.s.o.Arrives(ctx, slotOf(p.s.o.Cluster(), t, partition))
}

// log returns a partition's log, once it is here where it moves here, or the error.
func (p *producing) log(ctx context.Context, t *catalog.Topic, index int32) (*partition.Log, kafka.ErrorCode) {
	l, code := p.s.log(ctx, t, index)
	if code == kafka.NotLeaderOrFollower && p.arrives(ctx, t, index) {
		l, code = p.s.log(ctx, t, index)
	}
	return l, code
}

// append validates and appends one partition's batch, and fills in its answer.
func (p *producing) append(ctx context.Context, t *catalog.Topic, records []byte, row *wire.ProducePartition) {
	l, code := p.log(ctx, t, row.Partition)
	if row.Err = code; code != kafka.None {
		return
	}
	cfg := l.Config()
	batch, h, at, err := record.ValidateProduce(records, record.Rules{
		Topic: t.Name, Partition: row.Partition, Compacted: cfg.Compact, MaxMessageBytes: max(cfg.MaxMessageBytes, 1), // 0 refuses all, too
		LogAppendTime: cfg.LogAppendTime, BeforeMaxMs: cfg.TimestampBeforeMaxMs, AfterMaxMs: cfg.TimestampAfterMaxMs,
		Compression: cfg.Compression, Now: p.now,
	})
	if err != nil {
		refuseBatch(row, l, err)
		return
	}
	a, err := p.enter(l, batch, h)
	if codeOf(err) == kafka.NotLeaderOrFollower && p.arrives(ctx, t, row.Partition) {
		if again, code := p.s.log(ctx, t, row.Partition); code == kafka.None {
			l = again
			a, err = p.enter(l, batch, h)
		}
	}
	if err != nil {
		if row.Err = codeOf(err); fromLog(row.Err) && a.LogStart >= 0 {
			row.LogStartOffset = a.LogStart
			p.doubtful = append(p.doubtful, appended{log: l, part: row})
		}
		return
	}
	row.BaseOffset, row.LogAppendTime, row.LogStartOffset = a.Base, max(at, a.Timestamp), a.LogStart
	p.appended = append(p.appended, appended{l, a.Last, row})
	if !a.Duplicate {
		p.s.metrics.messages.Add(float64(h.NumRecords))
		p.s.metrics.produced.Add(float64(h.Size()))
	}
}

// fromLog tells the errors of a log's own checks, with which Kafka answers the
// log's start offset.
func fromLog(c kafka.ErrorCode) bool {
	return c == kafka.OutOfOrderSequenceNumber || c == kafka.InvalidProducerEpoch || c == kafka.InvalidTxnState
}

// refuseBatch fills in the answer for a batch that was not taken.
func refuseBatch(row *wire.ProducePartition, l *partition.Log, err error) {
	var inv *record.Invalid
	if !errors.As(err, &inv) {
		row.Err = codeOf(err)
		return
	}
	row.Err, row.Message = inv.Code, inv.Message
	if inv.Reached {
		row.LogStartOffset = l.Offsets().LogStart
	}
	for _, r := range inv.Records {
		row.Records = append(row.Records, wire.RecordError{Index: r.Index, Message: r.Message})
	}
}

// finish waits as acks says and makes the answer.
func (p *producing) finish(ctx context.Context, c *conn) reply {
	defer p.cancel()
	if p.req.acks == -1 {
		for _, a := range p.appended {
			if err := a.log.AwaitDurable(ctx, a.last); err != nil {
				a.part.Err, a.part.BaseOffset, a.part.LogAppendTime, a.part.LogStartOffset = codeOf(err), -1, -1, -1
			}
		}
	}
	for _, d := range p.doubtful {
		if d.log.Confirm(ctx) != nil {
			d.part.Err, d.part.LogStartOffset = kafka.NotLeaderOrFollower, -1
		}
	}
	failed := p.countFailed()
	if p.req.acks == 0 {
		return reply{close: failed}
	}
	p.hint()
	return reply{bufs: append(c.bufs[:0], c.keep(p.resp.AppendTo(c.scratch[:0])))}
}

// hint tells the client who leads what is refused here (KIP-951).
func (p *producing) hint() {
	if p.resp.Version < 10 {
		return
	}
	topics := p.s.o.Catalog.Topics()
	for i := range p.resp.Topics {
		t := &p.resp.Topics[i]
		for j := range t.Partitions {
			row := &t.Partitions[j]
			if row.Err != kafka.NotLeaderOrFollower {
				continue
			}
			if topic, code := lookup(topics, p.resp.Version >= 13, t.Name, t.ID); code == kafka.None {
				var at wire.Endpoint
				if row.Leader, at = p.s.elsewhere(topic, row.Partition); row.Leader != nil {
					p.resp.Endpoints = addEndpoint(p.resp.Endpoints, at)
				}
			}
		}
	}
}

func (p *producing) countFailed() (failed bool) {
	for i := range p.resp.Topics {
		for j := range p.resp.Topics[i].Partitions {
			if code := p.resp.Topics[i].Partitions[j].Err; code != kafka.None {
				failed = true
				p.s.metrics.failed.WithLabelValues("Produce", code.Error()).Inc()
			}
		}
	}
	return failed
}
