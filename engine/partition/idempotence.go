package partition

import (
	"math"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// check decides about a batch of an idempotent producer (KIP-98, KIP-360), in
// the order of Kafka's ProducerAppendInfo:
//
//	unknown producer id              any sequence is accepted
//	one of the last five batches     a duplicate: its first and last sequence both match
//	older epoch                      INVALID_PRODUCER_EPOCH
//	newer epoch                      must begin with sequence 0
//	same epoch                       must follow the last sequence, 0 after 2^31-1
//	open transaction, plain batch    INVALID_TXN_STATE
//	marker of an older coordinator   TRANSACTION_COORDINATOR_FENCED
//
// It returns the duplicate's original, or nil, and a kafka.ErrorCode or nil.
func check(st *bundle.State, b bundle.Batch) (*bundle.ProducerBatch, error) {
	p := recovery.FindProducer(st, b.ProducerID)
	if p == nil {
		return nil, nil
	}
	marker := b.ControlType >= 0
	if !marker {
		if original := findDuplicate(p, b); original != nil {
			return original, nil
		}
	}
	switch {
	case b.ProducerEpoch < p.Epoch:
		return nil, kafka.InvalidProducerEpoch
	case marker && before(b.CoordEpoch, p.CoordEpoch):
		return nil, kafka.TransactionCoordinatorFenced
	case marker:
		return nil, nil
	case b.BaseSequence != expectedSequence(p, b.ProducerEpoch):
		return nil, kafka.OutOfOrderSequenceNumber
	case p.TxnFirstOffset >= 0 && !transactional(b):
		return nil, kafka.InvalidTxnState
	}
	return nil, nil
}

func findDuplicate(p *bundle.Producer, b bundle.Batch) *bundle.ProducerBatch {
	if p.Epoch != b.ProducerEpoch {
		return nil
	}
	for i := range p.Batches {
		if o := &p.Batches[i]; o.FirstSeq == b.BaseSequence && o.LastSeq == b.LastSequence() {
			return o
		}
	}
	return nil
}

// expectedSequence returns the sequence that a producer's next batch has.
func expectedSequence(p *bundle.Producer, epoch int16) int32 {
	if p.Epoch != epoch || len(p.Batches) == 0 {
		return 0
	}
	last := p.Batches[len(p.Batches)-1].LastSeq
	if last == math.MaxInt32 {
		return 0
	}
	return last + 1
}

// transactional reads the batch's attribute bit 4.
func transactional(b bundle.Batch) bool { return b.Attributes&(1<<4) != 0 }

// before tells whether a marker's number lies before another's. Numbers go on
// with 0 behind 2^31-1; -1 is none.
func before(n, last int32) bool { return last >= 0 && (n-last)&math.MaxInt32 > 1<<30 }
