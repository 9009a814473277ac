package txn

import (
	"math"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// What a request does to a transactional id is a pure function of the item, the
// request and the time. It tells the code to answer, and whether the item has
// changed: then the answer may leave only when the item is written.

const (
	none = -1 // no producer id, no epoch

	// lastEpoch is used to end what a producer has left, at most; the producer
	// that comes next has another id (Kafka's isEpochExhausted).
	lastEpoch = math.MaxInt16 - 1

	maxPartitions = 10_000 // of a transaction; all fit an item
	maxGroups     = 1_000
)

// outcome is what a step asks for.
type outcome struct {
	code kafka.ErrorCode
	save bool
	// need tells that the step needs a new producer id: it is asked again with one.
	need bool
	// owned tells that only the owner of the id's slot may write the item: the request may be one of
	// before, which nothing in it tells.
	owned bool
}

func refuse(c kafka.ErrorCode) outcome { return outcome{code: c} }

// initialize gives a producer its id and epoch, and ends what one before it
// under the same transactional id has left open.
type initialize struct {
	timeoutMs int32
	expected  producer // what the client has, from a failure that it goes on after (KIP-360); none: nothing
	fresh     int64    // a new producer id; none: not asked for yet
}

// producer is a producer id at an epoch.
type producer struct {
	id    int64
	epoch int16
}

func (r initialize) step(t *catalog.Txn, now time.Time) outcome {
	switch {
	case !t.Exists():
		if r.fresh == none {
			return outcome{need: true}
		}
		t.LastEpoch, t.PrevProducerID, t.NextProducerID = none, none, none
		t.ProducerID, t.State, t.TimeoutMs = r.fresh, catalog.TxnEmpty, r.timeoutMs
		t.UpdateMs = now.UnixMilli()
		return outcome{save: true}
	case t.Prepared(): // before all else: its end may give the producer another id, which the client knows already
		return refuse(kafka.ConcurrentTransactions)
	case r.expected.id != none && !r.known(t):
		return refuse(kafka.ProducerFenced)
	case t.State == catalog.TxnOngoing:
		abandon(t, now)
		return outcome{code: kafka.ConcurrentTransactions, save: true}
	}
	expected := r.expected.epoch
	switch {
	case t.Epoch >= lastEpoch && (expected == none || expected == t.Epoch):
		if r.fresh == none {
			return outcome{need: true}
		}
		t.PrevProducerID, t.ProducerID, t.Epoch, t.LastEpoch = t.ProducerID, r.fresh, 0, expected
	case expected == none:
		t.Epoch, t.LastEpoch = t.Epoch+1, none
	case expected == t.Epoch:
		t.Epoch, t.LastEpoch = t.Epoch+1, t.Epoch
	case expected != t.LastEpoch: // else its repeat
		return refuse(kafka.ProducerFenced)
	}
	t.State, t.Partitions, t.Groups, t.StartMs = catalog.TxnEmpty, nil, nil, 0
	t.TimeoutMs, t.UpdateMs = r.timeoutMs, now.UnixMilli()
	return outcome{save: true}
}

// known tells whether a client's producer id is the one of now, or the one
// before it whose epochs it has used up.
func (r initialize) known(t *catalog.Txn) bool {
	return r.expected.id == t.ProducerID || r.expected.id == t.PrevProducerID && r.expected.epoch >= lastEpoch
}

// abandon decides to abort what a producer has left open, and fences it by an
// epoch that it does not know.
func abandon(t *catalog.Txn, now time.Time) {
	t.Epoch, t.LastEpoch = t.Epoch+1, none
	t.State, t.UpdateMs = catalog.TxnPrepareAbort, now.UnixMilli()
}

// checkProducer refuses who is not the id's producer of now.
func checkProducer(t *catalog.Txn, p producer) kafka.ErrorCode {
	switch {
	case t.Prepared() && p == next(t): // what it goes on as when the markers are written
		return kafka.ConcurrentTransactions
	case !t.Exists() || p.id != t.ProducerID:
		return kafka.InvalidProducerIDMapping
	case p.epoch != t.Epoch:
		return kafka.ProducerFenced
	}
	return kafka.None
}

// add enters partitions and groups into the transaction, which begins with the
// first of them.
type add struct {
	producer   producer
	partitions []kafka.TopicPartition
	groups     []string
}

func (r add) step(t *catalog.Txn, now time.Time) outcome {
	if code := checkProducer(t, r.producer); code != kafka.None {
		return refuse(code)
	}
	if t.Prepared() {
		return refuse(kafka.ConcurrentTransactions)
	}
	fresh := t.State != catalog.TxnOngoing
	if fresh {
		t.Partitions, t.Groups = nil, nil
	}
	n := t.Count() + len(t.Groups)
	for _, tp := range r.partitions {
		t.Add(tp)
	}
	for _, g := range r.groups {
		if i, ok := slices.BinarySearch(t.Groups, g); !ok {
			t.Groups = slices.Insert(t.Groups, i, g)
		}
	}
	switch {
	case t.Count() > maxPartitions || len(t.Groups) > maxGroups:
		return refuse(kafka.PolicyViolation)
	case t.Count()+len(t.Groups) == n:
		return outcome{}
	}
	if fresh {
		t.State, t.StartMs, t.Number = catalog.TxnOngoing, now.UnixMilli(), (t.Number+1)&math.MaxInt32
	}
	t.UpdateMs = now.UnixMilli()
	return outcome{save: true}
}

// verify tells whether a transaction is open that knows a partition or a group:
// it writes nothing.
func (r add) verify(t *catalog.Txn) kafka.ErrorCode {
	if code := checkProducer(t, r.producer); code != kafka.None {
		return code
	}
	if t.Prepared() {
		return kafka.ConcurrentTransactions
	}
	for _, tp := range r.partitions {
		if t.State != catalog.TxnOngoing || !t.Has(tp) {
			return kafka.TransactionAbortable
		}
	}
	for _, g := range r.groups {
		if t.State != catalog.TxnOngoing || !slices.Contains(t.Groups, g) {
			return kafka.TransactionAbortable
		}
	}
	return kafka.None
}

// end decides a transaction.
type end struct {
	producer producer
	commit   bool
	// raise gives the producer its next epoch with the end of each transaction
	// (KIP-890, EndTxn from version 5 on).
	raise bool
	fresh int64 // a new producer id, for when the epochs are used up; none: not asked for yet
}

func (r end) step(t *catalog.Txn, now time.Time) outcome {
	repeated := r.repeated(t)
	if !repeated {
		if code := checkProducer(t, r.producer); code != kafka.None {
			return refuse(code)
		}
	}
	decided := catalog.TxnPrepareAbort
	if r.commit {
		decided = catalog.TxnPrepareCommit
	}
	switch t.State {
	case catalog.TxnOngoing:
		return r.prepare(t, decided, now)
	case catalog.TxnPrepareCommit, catalog.TxnPrepareAbort: // what it comes to is told then
		return refuse(kafka.ConcurrentTransactions)
	case catalog.TxnCompleteCommit:
		if r.commit && (repeated || !r.raise) {
			return outcome{}
		}
	case catalog.TxnCompleteAbort:
		if !r.commit && (repeated || !r.raise) {
			return outcome{}
		}
	case catalog.TxnEmpty:
	}
	// With raised epochs a producer may abort what it has not begun: it does not
	// know whether it has, if nothing was answered.
	if r.raise && !r.commit && !repeated {
		t.Partitions, t.Groups, t.StartMs = nil, nil, 0
		t.Number = (t.Number + 1) & math.MaxInt32
		return r.prepare(t, decided, now)
	}
	return refuse(kafka.InvalidTxnState)
}

func (r end) prepare(t *catalog.Txn, decided catalog.TxnState, now time.Time) outcome {
	if r.raise {
		if t.Epoch >= lastEpoch && r.fresh == none {
			return outcome{need: true}
		}
		if t.Epoch >= lastEpoch {
			t.NextProducerID = r.fresh
		}
		t.Epoch, t.LastEpoch = t.Epoch+1, t.Epoch
	}
	t.State, t.UpdateMs = decided, now.UnixMilli()
	if t.Count()+len(t.Groups) == 0 {
		return complete(t, t.Number, now) // nobody has to hear of it
	}
	return outcome{save: true, owned: !r.raise}
}

// repeated tells whether a producer asks again for an end that has raised its epoch.
func (r end) repeated(t *catalog.Txn) bool {
	if !r.raise || !t.Exists() || t.State == catalog.TxnOngoing || t.State == catalog.TxnEmpty {
		return false
	}
	return r.producer.id == t.ProducerID && t.LastEpoch == r.producer.epoch && t.Epoch == r.producer.epoch+1 ||
		r.producer.id == t.PrevProducerID && r.producer.epoch >= lastEpoch && t.Epoch == 0
}

// next returns what a producer goes on with behind an end.
func next(t *catalog.Txn) producer {
	if t.NextProducerID != none {
		return producer{t.NextProducerID, 0}
	}
	return producer{t.ProducerID, t.Epoch}
}

// complete notes that all markers of what was prepared are durable.
func complete(t *catalog.Txn, number int32, now time.Time) outcome {
	if !t.Prepared() || t.Number != number {
		return outcome{} // somebody else has
	}
	if t.State == catalog.TxnPrepareCommit {
		t.State = catalog.TxnCompleteCommit
	} else {
		t.State = catalog.TxnCompleteAbort
	}
	if t.NextProducerID != none {
		t.PrevProducerID, t.ProducerID, t.NextProducerID, t.Epoch = t.ProducerID, t.NextProducerID, none, 0
	}
	t.Partitions, t.Groups, t.StartMs, t.UpdateMs = nil, nil, 0, now.UnixMilli()
	return outcome{save: true}
}

// overdue tells whether a producer has left its transaction open for longer
// than it said it would.
func overdue(t *catalog.Txn, now time.Time) bool {
	return t.State == catalog.TxnOngoing && now.UnixMilli() >= t.StartMs+int64(t.TimeoutMs)
}
