package txn

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

const (
	maxListed = 100_000 // transactions in an answer
	maxID     = 1000    // bytes of a transactional id: it is a sort key of the catalogue
	endRaises = 5       // the version of EndTxn from which on it raises the producer's epoch
)

// InitProducerID handles InitProducerId, versions 0 to 5: any broker gives a new
// id, a transactional id's producer is its coordinator's to tell.
func (c *Coordinator) InitProducerID(ctx context.Context, req *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = none, none
	var t catalog.Txn
	var code kafka.ErrorCode
	if req.TransactionalID == nil {
		t, code = c.unnamed(ctx)
	} else {
		t, code = c.initialize(ctx, req)
	}
	if resp.ErrorCode = int16(told(code, req.Version >= 4)); code == kafka.None {
		resp.ProducerID, resp.ProducerEpoch = t.ProducerID, t.Epoch
	}
	return resp
}

// unnamed gives an idempotent producer an id of its own.
func (c *Coordinator) unnamed(ctx context.Context) (t catalog.Txn, code kafka.ErrorCode) {
	id, err := c.producerID(ctx)
	if err != nil {
		c.o.Logger.Warn("reserve producer ids", "err", err)
		return t, kafka.CoordinatorNotAvailable // retriable
	}
	t.ProducerID = id
	return t, kafka.None
}

func (c *Coordinator) initialize(ctx context.Context, req *kmsg.InitProducerIDRequest) (catalog.Txn, kafka.ErrorCode) {
	id, expected := *req.TransactionalID, producer{none, none}
	if req.Version >= 3 {
		expected = producer{req.ProducerID, req.ProducerEpoch}
	}
	timeout := time.Duration(req.TransactionTimeoutMillis) * time.Millisecond
	switch {
	case c.o.Catalog.Level() < catalog.LevelTxns:
		return catalog.Txn{}, kafka.UnsupportedVersion
	case id == "", len(id) > maxID, (expected.id == none) != (expected.epoch == none):
		return catalog.Txn{}, kafka.InvalidRequest
	case timeout <= 0, timeout > c.o.Config().TxnMaxTimeout:
		return catalog.Txn{}, kafka.InvalidTransactionTimeout
	}
	return c.insist(ctx, id, func(fresh int64) step { return initialize{req.TransactionTimeoutMillis, expected, fresh}.step })
}

// AddPartitionsToTxn handles AddPartitionsToTxn, versions 0 to 3. If one partition is not there, none is added.
func (c *Coordinator) AddPartitionsToTxn(ctx context.Context, req *kmsg.AddPartitionsToTxnRequest) *kmsg.AddPartitionsToTxnResponse {
	resp := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	topics := c.o.Catalog.Topics()
	r := add{producer: producer{req.ProducerID, req.ProducerEpoch}}
	missing := false
	for _, t := range req.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		topic, ok := topics.ByName(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition = p
			if !ok || p < 0 || p >= topic.Partitions {
				rp.ErrorCode, missing = int16(kafka.UnknownTopicOrPartition), true
			} else {
				r.partitions = append(r.partitions, kafka.TopicPartition{Topic: topic.ID, Partition: p})
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	code := kafka.OperationNotAttempted
	if !missing {
		code = c.add(ctx, req.TransactionalID, r, req.Version >= 2)
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if p := &resp.Topics[i].Partitions[j]; p.ErrorCode == 0 {
				p.ErrorCode = int16(code)
			}
		}
	}
	return resp
}

// AddOffsetsToTxn handles AddOffsetsToTxn, versions 0 to 4.
func (c *Coordinator) AddOffsetsToTxn(ctx context.Context, req *kmsg.AddOffsetsToTxnRequest) *kmsg.AddOffsetsToTxnResponse {
	resp := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	code := kafka.InvalidGroupID
	if group.ValidID(req.Group, false) {
		code = c.add(ctx, req.TransactionalID, add{producer: producer{req.ProducerID, req.ProducerEpoch}, groups: []string{req.Group}}, req.Version >= 2)
	}
	resp.ErrorCode = int16(code)
	return resp
}

func (c *Coordinator) add(ctx context.Context, id string, r add, fenced bool) kafka.ErrorCode {
	if id == "" {
		return kafka.InvalidRequest
	}
	_, code := c.insist(ctx, id, func(int64) step { return r.step })
	return told(code, fenced)
}

// told is the code as a client of a version knows it.
func told(code kafka.ErrorCode, fenced bool) kafka.ErrorCode {
	if code == kafka.ProducerFenced && !fenced {
		return kafka.InvalidProducerEpoch
	}
	return code
}

// EndTxn handles EndTxn, versions 0 to 5. It answers when the transaction is
// decided; from 5 on with the producer's next epoch (KIP-890).
func (c *Coordinator) EndTxn(ctx context.Context, req *kmsg.EndTxnRequest) *kmsg.EndTxnResponse {
	resp := req.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ProducerID, resp.ProducerEpoch = none, none
	if req.TransactionalID == "" {
		resp.ErrorCode = int16(kafka.InvalidRequest)
		return resp
	}
	raise := req.Version >= endRaises
	of := func(fresh int64) step {
		return end{producer{req.ProducerID, req.ProducerEpoch}, req.Commit, raise, fresh}.step
	}
	var t catalog.Txn
	var code kafka.ErrorCode
	if raise {
		t, code = c.insist(ctx, req.TransactionalID, of)
	} else {
		// The epoch does not tell the producer's transactions apart: a request that its client
		// has sent again must not wait here until it would end the next one, nor end it
		// at a broker that was paused and does not know that the slot has moved.
		var out outcome
		t, out = c.act(ctx, req.TransactionalID, of(none))
		code = out.code
	}
	resp.ErrorCode = int16(told(code, req.Version >= 2))
	if raise && code == kafka.None {
		p := next(&t)
		resp.ProducerID, resp.ProducerEpoch = p.id, p.epoch
	}
	return resp
}

// Describe handles DescribeTransactions, version 0 (KIP-664).
func (c *Coordinator) Describe(ctx context.Context, req *kmsg.DescribeTransactionsRequest) *kmsg.DescribeTransactionsResponse {
	resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	for _, id := range req.TransactionalIDs {
		row := kmsg.NewDescribeTransactionsResponseTransactionState()
		row.TransactionalID = id
		row.ErrorCode = int16(c.describe(ctx, &row))
		resp.TransactionStates = append(resp.TransactionStates, row)
	}
	return resp
}

func (c *Coordinator) describe(ctx context.Context, row *kmsg.DescribeTransactionsResponseTransactionState) kafka.ErrorCode {
	if row.TransactionalID == "" {
		return kafka.InvalidRequest
	}
	t, out := c.act(ctx, row.TransactionalID, func(*catalog.Txn, time.Time) outcome { return outcome{} })
	if out.code != kafka.None {
		return out.code
	}
	if !t.Exists() {
		return kafka.TransactionalIDNotFound
	}
	row.State, row.TimeoutMillis, row.ProducerID, row.ProducerEpoch = string(t.State), t.TimeoutMs, t.ProducerID, t.Epoch
	if row.StartTimestamp = none; t.StartMs > 0 {
		row.StartTimestamp = t.StartMs
	}
	all, err := t.All()
	if err != nil {
		return kafka.UnknownServerError
	}
	topics := c.o.Catalog.Topics()
	for _, tp := range all {
		topic, ok := topics.ByID(tp.Topic)
		if !ok {
			continue // deleted
		}
		if n := len(row.Topics); n == 0 || row.Topics[n-1].Topic != topic.Name {
			rt := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
			rt.Topic = topic.Name
			row.Topics = append(row.Topics, rt)
		}
		rt := &row.Topics[len(row.Topics)-1]
		rt.Partitions = append(rt.Partitions, tp.Partition)
	}
	return kafka.None
}

var states = []catalog.TxnState{
	catalog.TxnEmpty, catalog.TxnOngoing, catalog.TxnPrepareCommit, catalog.TxnPrepareAbort, catalog.TxnCompleteCommit, catalog.TxnCompleteAbort,
}

// kafkaStates are states of Kafka's that there are none in here.
var kafkaStates = []catalog.TxnState{"Dead", "PrepareEpochFence"}

// List handles ListTransactions, versions 0 to 2 (KIP-664; v1 durations, KIP-994;
// v2 a pattern of ids, KIP-1152): those of the slots that this broker owns.
func (c *Coordinator) List(ctx context.Context, req *kmsg.ListTransactionsRequest) *kmsg.ListTransactionsResponse {
	resp := req.ResponseKind().(*kmsg.ListTransactionsResponse)
	for _, s := range req.StateFilters {
		if state := catalog.TxnState(s); !slices.Contains(states, state) && !slices.Contains(kafkaStates, state) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, s)
		}
	}
	var pattern *regexp.Regexp
	if req.Version >= 2 && req.TransactionalIDPattern != nil && *req.TransactionalIDPattern != "" {
		var err error
		if pattern, err = regexp.Compile(`^(?:` + *req.TransactionalIDPattern + `)$`); err != nil {
			resp.ErrorCode = int16(kafka.InvalidRegularExpression)
			return resp
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*ioTimeout)
	defer cancel()
	now := time.Now().UnixMilli()
	for _, slot := range c.o.Owned() {
		all, err := c.o.Catalog.Txns(ctx, slot.Slot)
		if err != nil {
			resp.ErrorCode, resp.TransactionStates = int16(kafka.CoordinatorNotAvailable), nil
			return resp
		}
		for _, t := range all {
			duration := req.Version < 1 || req.DurationFilterMillis < 0 || t.StartMs > 0 && now-t.StartMs > req.DurationFilterMillis
			if !duration || !wanted(req, &t) || pattern != nil && !pattern.MatchString(t.ID) || len(resp.TransactionStates) == maxListed {
				continue
			}
			row := kmsg.NewListTransactionsResponseTransactionState()
			row.TransactionalID, row.ProducerID, row.TransactionState = t.ID, t.ProducerID, string(t.State)
			resp.TransactionStates = append(resp.TransactionStates, row)
		}
	}
	return resp
}

func wanted(req *kmsg.ListTransactionsRequest, t *catalog.Txn) bool {
	return (len(req.StateFilters) == 0 || slices.Contains(req.StateFilters, string(t.State))) &&
		(len(req.ProducerIDFilters) == 0 || slices.Contains(req.ProducerIDFilters, t.ProducerID))
}

// wait waits for d, or for ctx to end.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
