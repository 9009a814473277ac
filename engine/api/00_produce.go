package api

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// Produce, versions 3 to 13; 0 to 2 are advertised for old librdkafka clients,
// which look at the minimum to know about compression (KAFKA-18659).
//
//	v3  transactional id        v5  log start offset     v8  record errors
//	v9  flexible                v10 leader hints         v13 topic ids
//
// acks=0 is not answered; an error then closes the connection. acks=1 is
// answered once appended, acks=all once durable.

// produced is one partition's append.
type produced struct {
	log  *partition.Log
	last kafka.Offset // -1: nothing to wait for
	part *wire.ProducePartition
}

// produce appends, in order of arrival, and returns what waits and answers.
func (s *Server) produce(ctx context.Context, r *request) func(hard, poll context.Context) reply {
	req := r.msg.(*kmsg.ProduceRequest)
	resp := &wire.ProduceResponse{Version: r.Version, CorrelationID: r.CorrelationID, Topics: make([]wire.ProduceTopic, len(req.Topics))}
	var appended []produced
	refuse := s.refuseProduce(ctx, req)
	topics := s.o.Catalog.Topics()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := &resp.Topics[i]
		out.Name, out.ID, out.Partitions = t.Topic, t.TopicID, make([]wire.ProducePartition, len(t.Partitions))
		topic, missing := lookup(topics, r.Version >= 13, t.Topic, t.TopicID)
		for j := range t.Partitions {
			p := &out.Partitions[j]
			*p = wire.ProducePartition{Partition: t.Partitions[j].Partition, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
			switch {
			case refuse != kafka.None:
				p.Err = refuse
			case topic == nil:
				p.Err = missing
			default:
				if a := s.appendTo(topic, t.Partitions[j].Records, p); a.log != nil {
					appended = append(appended, a)
				}
			}
		}
	}
	return func(hard, _ context.Context) reply { return s.finishProduce(hard, r, req, resp, appended) }
}

// refuseProduce returns the error of the request as a whole.
func (s *Server) refuseProduce(ctx context.Context, req *kmsg.ProduceRequest) kafka.ErrorCode {
	if req.Acks < -1 || req.Acks > 1 {
		return kafka.InvalidRequiredAcks
	}
	if req.TransactionID != nil {
		return kafka.InvalidTxnState // no transaction was ever begun here
	}
	n := 0
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			n += len(req.Topics[i].Partitions[j].Records)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, produceTimeout(req.TimeoutMillis))
	defer cancel()
	if err := s.o.Admit(ctx, n); err != nil {
		return admitCode(err)
	}
	return kafka.None
}

// admitCode turns a refusal into a retriable error.
func admitCode(err error) kafka.ErrorCode {
	var code kafka.ErrorCode
	if errors.As(err, &code) {
		return code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return kafka.RequestTimedOut
	}
	return kafka.NotLeaderOrFollower
}

func produceTimeout(ms int32) time.Duration {
	return time.Duration(max(ms, 1)) * time.Millisecond
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

// log returns a partition's log, or the error for one that is not here.
func (s *Server) log(t *catalog.Topic, p int32) (*partition.Log, kafka.ErrorCode) {
	if p < 0 || p >= t.Partitions {
		return nil, kafka.UnknownTopicOrPartition
	}
	if l, ok := s.o.Logs.Get(kafka.TopicPartition{Topic: t.ID, Partition: p}); ok {
		return l, kafka.None
	}
	return nil, kafka.NotLeaderOrFollower
}

// appendTo validates and appends one partition's batch, and fills in its answer.
func (s *Server) appendTo(t *catalog.Topic, records []byte, p *wire.ProducePartition) produced {
	l, code := s.log(t, p.Partition)
	if code != kafka.None {
		p.Err = code
		return produced{}
	}
	cfg := l.Config()
	batch, h, at, err := record.ValidateProduce(records, record.Rules{
		Topic: t.Name, Partition: p.Partition, Compacted: cfg.Compact, MaxMessageBytes: cfg.MaxMessageBytes,
		LogAppendTime: cfg.LogAppendTime, BeforeMaxMs: cfg.TimestampBeforeMaxMs, AfterMaxMs: cfg.TimestampAfterMaxMs,
		Compression: cfg.Compression, Now: time.Now(),
	})
	if err != nil {
		refused(p, l, err)
		return produced{}
	}
	if h.Transactional() {
		p.Err = kafka.InvalidTxnState
		return produced{}
	}
	a, err := l.Append(batch, h)
	if err != nil {
		p.Err = codeOf(err)
		if staysInLog(p.Err) {
			p.LogStartOffset = l.Offsets().LogStart
		}
		return produced{}
	}
	p.BaseOffset, p.LogAppendTime, p.LogStartOffset = a.Base, max(at, a.Timestamp), a.LogStart
	s.metrics.messages.Add(float64(h.NumRecords))
	s.metrics.produced.Add(float64(h.Size()))
	return produced{l, a.Last, p}
}

// staysInLog tells the errors that a partition's log gave, after which Kafka
// answers with its start offset.
func staysInLog(c kafka.ErrorCode) bool {
	return c == kafka.OutOfOrderSequenceNumber || c == kafka.InvalidProducerEpoch || c == kafka.InvalidTxnState
}

func refused(p *wire.ProducePartition, l *partition.Log, err error) {
	var inv *record.Invalid
	if !errors.As(err, &inv) {
		p.Err = codeOf(err)
		return
	}
	p.Err, p.Message = inv.Code, inv.Message
	if inv.Reached {
		p.LogStartOffset = l.Offsets().LogStart
	}
	for _, r := range inv.Records {
		p.Records = append(p.Records, wire.RecordError{Index: r.Index, Message: r.Message})
	}
}

// finishProduce waits as acks says and makes the answer.
func (s *Server) finishProduce(ctx context.Context, r *request, req *kmsg.ProduceRequest, resp *wire.ProduceResponse, appended []produced) reply {
	if req.Acks == -1 && len(appended) > 0 {
		ctx, cancel := context.WithTimeout(ctx, produceTimeout(req.TimeoutMillis))
		defer cancel()
		for _, a := range appended {
			if err := a.log.AwaitDurable(ctx, a.last); err != nil {
				a.part.Err, a.part.BaseOffset, a.part.LogAppendTime, a.part.LogStartOffset = codeOf(err), -1, -1, -1
			}
		}
	}
	failed := s.countFailed(resp)
	if req.Acks == 0 {
		return reply{close: failed}
	}
	c := r.conn
	c.scratch = resp.AppendTo(c.scratch[:0])
	return reply{bufs: append(c.bufs[:0], c.scratch)}
}

func (s *Server) countFailed(resp *wire.ProduceResponse) (failed bool) {
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if code := resp.Topics[i].Partitions[j].Err; code != kafka.None {
				failed = true
				s.metrics.failed.WithLabelValues("Produce", code.Error()).Inc()
			}
		}
	}
	return failed
}
