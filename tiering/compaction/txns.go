package compaction

import (
	"cmp"
	"maps"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
)

// txns follows the transactions of a log from batch to batch, as Kafka's
// CleanedTransactionMetadata does. All of them are decided.
type txns struct {
	waiting   []bundle.AbortedTxn // not reached yet, by first offset
	aborted   map[int64]openAbort // by producer: reached, and its marker not
	committed map[int64]bool      // producers that have records of a transaction before us
}

// openAbort is an aborted transaction between its first record and its marker.
type openAbort struct {
	txn  bundle.AbortedTxn
	data bool // some of its records were still there
}

func newTxns() *txns {
	return &txns{aborted: make(map[int64]openAbort), committed: make(map[int64]bool)}
}

// clone returns a copy that goes its own way.
func (t *txns) clone() *txns {
	return &txns{waiting: slices.Clone(t.waiting), aborted: maps.Clone(t.aborted), committed: maps.Clone(t.committed)}
}

// add makes aborted transactions known before their first batch is seen. One
// that reaches over several segments may be added for each.
func (t *txns) add(all []bundle.AbortedTxn) {
	t.waiting = append(t.waiting, all...)
	slices.SortStableFunc(t.waiting, func(a, b bundle.AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
}

// reach opens the transactions that begin at an offset or before.
func (t *txns) reach(off kafka.Offset) {
	n := 0
	for n < len(t.waiting) && t.waiting[n].FirstOffset <= off {
		a := t.waiting[n]
		if _, ok := t.aborted[a.ProducerID]; !ok {
			t.aborted[a.ProducerID] = openAbort{txn: a}
		}
		n++
	}
	t.waiting = t.waiting[n:]
}

// data takes in a batch of records and tells whether they were aborted.
func (t *txns) data(h record.Header) (aborted bool) {
	t.reach(h.LastOffset())
	if !h.Transactional() {
		return false
	}
	if a, ok := t.aborted[h.ProducerID]; ok {
		a.data = true
		t.aborted[h.ProducerID] = a
		return true
	}
	t.committed[h.ProducerID] = true
	return false
}

// marker takes in the marker that ends a producer's transaction and tells
// whether none of its records were there any more; ended is the transaction, if
// it is known to have been aborted.
func (t *txns) marker(h record.Header, kind int16) (empty bool, ended *bundle.AbortedTxn) {
	t.reach(h.LastOffset())
	switch kind {
	case markerAbort:
		a, ok := t.aborted[h.ProducerID]
		delete(t.aborted, h.ProducerID)
		if !ok {
			return true, nil
		}
		return !a.data, &a.txn
	case markerCommit:
		had := t.committed[h.ProducerID]
		delete(t.committed, h.ProducerID)
		return !had, nil
	}
	return false, nil
}

// Types of markers (KIP-98).
const (
	markerAbort  = 0
	markerCommit = 1
)
