package api

import (
	"context"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/txn"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

// A batch of a transaction is appended if the transaction is open and has the
// partition (KIP-890). A log knows that of a transaction that has records in it; of
// others the request asks the catalogue, once for all of its partitions, before
// it appends anything:
//
//	up to version 11  the client has added the partition (AddPartitionsToTxn): it is looked up
//	from 12 on        it does not: the partition is added here
//
// A refusal is TRANSACTION_ABORTABLE, before version 11 INVALID_TXN_STATE, and
// retriable, NOT_ENOUGH_REPLICAS, where it could not be found out.

// Versions of Produce.
const (
	produceAbortable = 11 // knows TRANSACTION_ABORTABLE
	produceJoins     = 12 // enters its partitions into the transaction
)

// txnSeen is what was found out about a request's transaction.
type txnSeen struct {
	known  map[*partition.Log]bool // the log knows that it is open; false: the code and number are for it
	code   kafka.ErrorCode
	number int32
}

// askTxn looks at the transaction for those of the request's logs that do not know it.
// Batches of other producers than the first are left out, and refused later.
func (p *producing) askTxn(ctx context.Context, topics *catalog.Topics) {
	p.txn.known = make(map[*partition.Log]bool)
	claim := txn.Claim{TransactionalID: p.req.transactionalID, ProducerID: -1}
	for i := range p.req.topics {
		t := &p.req.topics[i]
		topic, code := lookup(topics, p.resp.Version >= 13, t.name, t.id)
		if code != kafka.None {
			continue
		}
		for _, part := range t.parts {
			h, err := record.ParseHeader(part.records)
			if err != nil || !h.Transactional() || claim.ProducerID >= 0 && (h.ProducerID != claim.ProducerID || h.ProducerEpoch != claim.Epoch) {
				continue
			}
			l, code := p.log(ctx, topic, part.index)
			if code != kafka.None {
				continue
			}
			if p.txn.known[l] = l.InTxn(h.ProducerID, h.ProducerEpoch); !p.txn.known[l] {
				claim.ProducerID, claim.Epoch = h.ProducerID, h.ProducerEpoch
				claim.Partitions = append(claim.Partitions, l.TP())
			}
		}
	}
	switch {
	case len(claim.Partitions) == 0:
	case p.resp.Version >= produceJoins:
		p.txn.number, p.txn.code = p.s.o.Txns.Join(ctx, claim)
	default:
		p.txn.number, p.txn.code = p.s.o.Txns.Verify(ctx, claim)
	}
}

// elsewhere is what an error comes with that is not the log's own.
var elsewhere = partition.Appended{Base: -1, Last: -1, LogStart: -1, Timestamp: -1}

// enter appends a batch.
func (p *producing) enter(l *partition.Log, batch []byte, h record.Header) (partition.Appended, error) {
	if !h.Transactional() {
		return l.Append(batch, h)
	}
	known, looked := p.txn.known[l]
	number := p.txn.number
	switch {
	case !p.req.transactional:
		return elsewhere, kafka.InvalidTxnState
	case !looked: // it has come meanwhile
		return elsewhere, kafka.NotEnoughReplicas
	case known:
		number = -1
	case p.txn.code != kafka.None:
		return elsewhere, p.refused(p.txn.code)
	}
	a, err := l.AppendTxn(batch, h, number, p.resp.Version >= produceJoins)
	if code := codeOf(err); code == kafka.TransactionAbortable {
		return a, p.refused(code)
	}
	return a, err
}

// refused is the code for a batch whose transaction is not open as it should be.
func (p *producing) refused(code kafka.ErrorCode) kafka.ErrorCode {
	switch code {
	case kafka.ConcurrentTransactions, kafka.CoordinatorNotAvailable, kafka.NotCoordinator:
		return kafka.NotEnoughReplicas
	case kafka.TransactionAbortable:
		if p.resp.Version < produceAbortable {
			return kafka.InvalidTxnState
		}
	case kafka.ProducerFenced:
		return kafka.InvalidProducerEpoch
	}
	return code
}
