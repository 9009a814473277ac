package txn

import (
	"math"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

var at = time.UnixMilli(1_700_000_000_000)

// id is a transactional id with what has been asked of it.
type id struct {
	t     *testing.T
	txn   catalog.Txn
	fresh int64
}

func newID(t *testing.T) *id { return &id{t: t, fresh: 100} }

// init asks for a producer, and gives a new id where one is needed.
func (i *id) init(expected producer, want kafka.ErrorCode) producer {
	i.t.Helper()
	r := initialize{timeoutMs: 1000, expected: expected, fresh: none}
	out := r.step(&i.txn, at)
	if out.need {
		r.fresh, i.fresh = i.fresh, i.fresh+1
		out = r.step(&i.txn, at)
	}
	if out.code != want {
		i.t.Errorf("init %v: %v, want %v", expected, out.code, want)
	}
	return producer{i.txn.ProducerID, i.txn.Epoch}
}

func (i *id) add(p producer, partition int32, want kafka.ErrorCode) {
	i.t.Helper()
	if out := (add{producer: p, partitions: []kafka.TopicPartition{{Partition: partition}}}).step(&i.txn, at); out.code != want {
		i.t.Errorf("add %d for %v: %v, want %v", partition, p, out.code, want)
	}
}

func (i *id) verify(p producer, partition int32, want kafka.ErrorCode) {
	i.t.Helper()
	if code := (add{producer: p, partitions: []kafka.TopicPartition{{Partition: partition}}}).verify(&i.txn); code != want {
		i.t.Errorf("verify %d for %v: %v, want %v", partition, p, code, want)
	}
}

// end ends a transaction; raise: as EndTxn from version 5 on does.
func (i *id) end(p producer, commit, raise bool, want kafka.ErrorCode) producer {
	i.t.Helper()
	r := end{producer: p, commit: commit, raise: raise, fresh: none}
	out := r.step(&i.txn, at)
	if out.need {
		r.fresh, i.fresh = i.fresh, i.fresh+1
		out = r.step(&i.txn, at)
	}
	if out.code != want {
		i.t.Errorf("end of %v, commit %v: %v, want %v", p, commit, out.code, want)
	}
	return next(&i.txn)
}

func (i *id) complete() {
	i.t.Helper()
	if out := complete(&i.txn, i.txn.Number, at); !out.save {
		i.t.Errorf("complete: nothing is prepared, but %s", i.txn.State)
	}
}

func (i *id) is(want catalog.TxnState) {
	i.t.Helper()
	if i.txn.State != want {
		i.t.Errorf("%s, want %s", i.txn.State, want)
	}
}

var nobody = producer{none, none}

func TestTransaction(t *testing.T) {
	i := newID(t)
	i.verify(producer{100, 0}, 1, kafka.InvalidProducerIDMapping)
	p := i.init(nobody, kafka.None)
	if p != (producer{100, 0}) {
		t.Errorf("first producer %v", p)
	}
	i.is(catalog.TxnEmpty)
	i.verify(p, 1, kafka.TransactionAbortable)
	i.end(p, true, false, kafka.InvalidTxnState)
	i.end(p, false, false, kafka.InvalidTxnState)
	i.add(p, 1, kafka.None)
	i.is(catalog.TxnOngoing)
	number := i.txn.Number
	i.verify(p, 1, kafka.None)
	i.verify(p, 2, kafka.TransactionAbortable)
	i.add(p, 2, kafka.None)
	i.add(producer{7, 0}, 3, kafka.InvalidProducerIDMapping)
	i.add(producer{100, 1}, 3, kafka.ProducerFenced)
	if out := (add{producer: p, partitions: []kafka.TopicPartition{{Partition: 2}}}).step(&i.txn, at); out.save || out.code != kafka.None {
		t.Errorf("a partition that is there already: %+v", out)
	}
	i.end(p, true, false, kafka.None)
	i.is(catalog.TxnPrepareCommit)
	i.add(p, 3, kafka.ConcurrentTransactions)
	i.verify(p, 1, kafka.ConcurrentTransactions)
	i.end(p, true, false, kafka.ConcurrentTransactions)
	i.end(p, false, false, kafka.ConcurrentTransactions)
	i.init(nobody, kafka.ConcurrentTransactions)
	if out := complete(&i.txn, number-1, at); out.save {
		t.Error("another transaction's markers complete this one")
	}
	i.complete()
	i.is(catalog.TxnCompleteCommit)
	i.end(p, true, false, kafka.None) // its repeat
	i.end(p, false, false, kafka.InvalidTxnState)
	i.verify(p, 1, kafka.TransactionAbortable)
	i.add(p, 1, kafka.None)
	if i.txn.Number != number+1 || i.txn.Count() != 1 {
		t.Errorf("the second transaction has number %d and %d partitions", i.txn.Number, i.txn.Count())
	}
	i.end(p, false, false, kafka.None)
	i.complete()
	i.is(catalog.TxnCompleteAbort)
	i.end(p, false, false, kafka.None)
	i.end(p, true, false, kafka.InvalidTxnState)
}

// Who takes an id ends what its former producer has left open, which is fenced.
func TestFence(t *testing.T) {
	i := newID(t)
	old := i.init(nobody, kafka.None)
	i.add(old, 1, kafka.None)
	i.init(nobody, kafka.ConcurrentTransactions)
	i.is(catalog.TxnPrepareAbort)
	i.end(old, true, false, kafka.ProducerFenced)
	i.complete()
	p := i.init(nobody, kafka.None)
	if p != (producer{100, 2}) {
		t.Errorf("%v, want the next epoch behind the one that fenced", p)
	}
	i.add(old, 1, kafka.ProducerFenced)
	i.add(p, 1, kafka.None)
}

func TestOverdue(t *testing.T) {
	i := newID(t)
	p := i.init(nobody, kafka.None)
	if overdue(&i.txn, at.Add(time.Hour)) {
		t.Error("what is empty is overdue")
	}
	i.add(p, 1, kafka.None)
	if overdue(&i.txn, at.Add(999*time.Millisecond)) || !overdue(&i.txn, at.Add(time.Second)) {
		t.Error("overdue at another time than the timeout")
	}
	abandon(&i.txn, at)
	i.end(p, true, false, kafka.ProducerFenced)
}

// KIP-360: a producer goes on with its id behind a failure, and may ask twice.
func TestGoesOn(t *testing.T) {
	i := newID(t)
	p := i.init(nobody, kafka.None)
	raised := i.init(p, kafka.None)
	if raised != (producer{100, 1}) {
		t.Errorf("raised to %v", raised)
	}
	if again := i.init(p, kafka.None); again != raised {
		t.Errorf("asked again: %v, want %v", again, raised)
	}
	i.init(producer{100, 7}, kafka.ProducerFenced)
	i.init(producer{7, 1}, kafka.ProducerFenced)
}

func TestEpochsUsedUp(t *testing.T) {
	i := newID(t)
	i.init(nobody, kafka.None)
	i.txn.Epoch = lastEpoch
	if p := i.init(producer{100, lastEpoch}, kafka.None); p != (producer{101, 0}) {
		t.Errorf("behind the last epoch: %v", p)
	}
	i.txn.Epoch = lastEpoch
	p := producer{101, lastEpoch}
	i.add(p, 1, kafka.None)
	goesOn := i.end(p, true, true, kafka.None)
	if goesOn != (producer{102, 0}) || i.txn.ProducerID != 101 || i.txn.Epoch != math.MaxInt16 {
		t.Errorf("goes on as %v; markers are of %d at %d", goesOn, i.txn.ProducerID, i.txn.Epoch)
	}
	// Its markers are on their way, and it goes on already: it has to wait, as with any id.
	i.add(goesOn, 1, kafka.ConcurrentTransactions)
	i.verify(goesOn, 1, kafka.ConcurrentTransactions)
	i.end(goesOn, false, true, kafka.ConcurrentTransactions)
	i.init(goesOn, kafka.ConcurrentTransactions)
	i.add(producer{102, 1}, 1, kafka.InvalidProducerIDMapping)
	i.complete()
	if again := i.end(p, true, true, kafka.None); again != goesOn {
		t.Errorf("asked again: %v", again)
	}
	i.add(goesOn, 1, kafka.None)
}

// KIP-890: each end raises the epoch, which its repeat is told too.
func TestRaise(t *testing.T) {
	i := newID(t)
	p := i.init(nobody, kafka.None)
	i.end(p, true, true, kafka.InvalidTxnState)
	i.add(p, 1, kafka.None)
	n := i.end(p, true, true, kafka.None)
	if n != (producer{100, 1}) || i.txn.Epoch != 1 {
		t.Errorf("goes on as %v, markers are of epoch %d", n, i.txn.Epoch)
	}
	i.end(p, true, true, kafka.ConcurrentTransactions)
	i.end(n, false, true, kafka.ConcurrentTransactions) // of the next one, which has to wait
	i.complete()
	if again := i.end(p, true, true, kafka.None); again != n {
		t.Errorf("asked again: %v", again)
	}
	i.end(p, false, true, kafka.InvalidTxnState)
	i.verify(p, 1, kafka.ProducerFenced)
	// What may not have begun can be aborted, and raises the epoch too.
	i.end(n, true, true, kafka.InvalidTxnState)
	e := i.end(n, false, true, kafka.None)
	if e != (producer{100, 2}) {
		t.Errorf("goes on as %v", e)
	}
	i.is(catalog.TxnCompleteAbort)
	if again := i.end(n, false, true, kafka.None); again != e {
		t.Errorf("asked again: %v", again)
	}
	i.add(e, 1, kafka.None)
	i.end(n, false, true, kafka.ProducerFenced)
}

func TestBounds(t *testing.T) {
	i := newID(t)
	p := i.init(nobody, kafka.None)
	var all []kafka.TopicPartition
	for n := range int32(maxPartitions + 1) {
		all = append(all, kafka.TopicPartition{Partition: n})
	}
	if out := (add{producer: p, partitions: all}).step(&i.txn, at); out.code != kafka.PolicyViolation {
		t.Errorf("%d partitions: %v", len(all), out.code)
	}
}

// TestOwnedEnds: what a late repeat could do to the next transaction, only the owner of the slot may write.
func TestOwnedEnds(t *testing.T) {
	for _, raise := range []bool{false, true} {
		i := newID(t)
		p := i.init(producer{none, none}, kafka.None)
		i.add(p, 1, kafka.None)
		if out := (end{producer: p, commit: true, raise: raise, fresh: none}).step(&i.txn, at); !out.save || out.owned == raise {
			t.Errorf("raised %t: %+v", raise, out)
		}
	}
}
