package partition

import (
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// A batch may begin a transaction in a log only if the transaction is open and
// has the partition: one that arrives behind its transaction's end would begin
// one that nobody ends (KIP-890). Who appends a producer's first one looks at the
// transaction's item, and brings its number, which the marker that ends it will
// have: a log that has this marker already takes no more.

// InTxn tells whether a producer has a transaction open in the log: then its
// next batch needs no look.
func (l *Log) InTxn(producerID int64, epoch int16) bool {
	t := l.lockTip()
	defer t.mu.Unlock()
	return t.inTxn(producerID, epoch)
}

func (t *tip) inTxn(producerID int64, epoch int16) bool {
	p := recovery.FindProducer(t.state, producerID)
	return p != nil && p.TxnFirstOffset >= 0 && p.Epoch == epoch
}

// AppendTxn is Append of a batch of the producer's transaction with a number,
// -1: of one that the log knew to be open. TRANSACTION_ABORTABLE: it has ended.
// raised tells that the producer has an epoch for each transaction (KIP-890): its first batch in a log that does not know the
// producer has sequence 0, so OUT_OF_ORDER_SEQUENCE_NUMBER is for one that overtakes it, where that was refused and is on its way again.
func (l *Log) AppendTxn(batch []byte, h record.Header, number int32, raised bool) (Appended, error) {
	return l.append(batch, h, func(t *tip, b bundle.Batch) error {
		switch {
		case t.inTxn(b.ProducerID, b.ProducerEpoch):
			return nil
		case number < 0 || t.marked(b.ProducerID, number):
			return kafka.TransactionAbortable
		case raised && b.BaseSequence != 0 && recovery.FindProducer(t.state, b.ProducerID) == nil:
			return kafka.OutOfOrderSequenceNumber
		}
		return nil
	})
}

// marked tells whether the marker of a producer's transaction, or of a later
// one, is in the log.
func (t *tip) marked(producerID int64, number int32) bool {
	p := recovery.FindProducer(t.state, producerID)
	return p != nil && p.CoordEpoch >= 0 && !before(p.CoordEpoch, number)
}

// Marker ends a producer's transaction in a log.
type Marker struct {
	ProducerID int64
	Epoch      int16
	Commit     bool
	Number     int32 // stands where Kafka has the coordinator's epoch
	// Numbered tells that Number counts the transactions of the producer's
	// transactional id: the marker of each is taken once.
	Numbered bool
}

// AppendMarker appends a marker, made at a time. One that is there already is
// answered with the log's end, at or before which it lies. Errors are kafka.ErrorCodes:
// INVALID_PRODUCER_EPOCH and TRANSACTION_COORDINATOR_FENCED tell that a later
// one has been here, or a producer that came later.
func (l *Log) AppendMarker(m Marker, at time.Time) (Appended, error) {
	batch, err := record.Marker(m.ProducerID, m.Epoch, m.Commit, m.Number, at)
	if err != nil {
		return Appended{Base: -1, Last: -1, Timestamp: -1}, kafka.UnknownServerError
	}
	h, err := record.ParseHeader(batch)
	if err != nil {
		return Appended{Base: -1, Last: -1, Timestamp: -1}, kafka.UnknownServerError
	}
	there := kafka.Offset(-1)
	a, err := l.append(batch, h, func(t *tip, _ bundle.Batch) error {
		if p := recovery.FindProducer(t.state, m.ProducerID); m.Numbered && p != nil && p.CoordEpoch == m.Number {
			there = t.state.NextOffset - 1
			return kafka.DuplicateSequenceNumber
		}
		return nil
	})
	if there >= 0 {
		a.Last, a.Duplicate = there, true
		return a, nil
	}
	return a, err
}
