package partition

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

func txnBatch(t *testing.T, epoch int16, seq int32) ([]byte, record.Header) {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional = 7, epoch, seq, true
	b.Append(1, nil, []byte("v"))
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	h, err := record.ParseHeader(out)
	if err != nil {
		t.Fatal(err)
	}
	return out, h
}

// TestAppendTxn: a batch begins a transaction only if that has not ended here.
func TestAppendTxn(t *testing.T) {
	l := newRig(Shared{}).Log
	raised := false
	appendTxn := func(epoch int16, seq, number int32, want kafka.ErrorCode) {
		t.Helper()
		batch, h := txnBatch(t, epoch, seq)
		_, err := l.AppendTxn(batch, h, number, raised)
		var code kafka.ErrorCode
		if errors.As(err, &code); code != want {
			t.Errorf("epoch %d, sequence %d of transaction %d: %v, want %v", epoch, seq, number, err, want)
		}
	}
	mark := func(epoch int16, number int32, numbered bool, want kafka.ErrorCode) (duplicate bool) {
		t.Helper()
		a, err := l.AppendMarker(Marker{ProducerID: 7, Epoch: epoch, Number: number, Numbered: numbered}, time.Now())
		var code kafka.ErrorCode
		if errors.As(err, &code); code != want {
			t.Errorf("marker of transaction %d: %v, want %v", number, err, want)
		}
		return a.Duplicate
	}
	appendTxn(0, 0, -1, kafka.TransactionAbortable) // it was known to be open, and is not
	appendTxn(0, 0, 1, kafka.None)
	if !l.InTxn(7, 0) || l.InTxn(7, 1) || l.InTxn(8, 0) {
		t.Error("another transaction is open than the one that has begun")
	}
	appendTxn(0, 1, -1, kafka.None)
	if mark(0, 1, true, kafka.None) {
		t.Error("the first marker is there already")
	}
	end := l.tip.state.NextOffset
	appendTxn(0, 2, 1, kafka.TransactionAbortable) // it comes late
	appendTxn(0, 1, 1, kafka.None)                 // a duplicate is answered as the original
	if !mark(0, 1, true, kafka.None) || l.tip.state.NextOffset != end {
		t.Error("a marker is taken twice")
	}
	appendTxn(0, 2, 2, kafka.None)
	if !mark(0, 1, true, kafka.None) || !l.InTxn(7, 0) {
		t.Error("a late marker ends the next transaction")
	}
	mark(0, 0, true, kafka.TransactionCoordinatorFenced)
	if mark(0, 1, false, kafka.None) || l.InTxn(7, 0) { // an administrator's
		t.Error("a marker without number does not end the transaction")
	}
	mark(1, math.MaxInt32, true, kafka.TransactionCoordinatorFenced)

	l, raised = newRig(Shared{}).Log, true
	appendTxn(3, 5, 1, kafka.OutOfOrderSequenceNumber) // it has overtaken the first, which was refused
	appendTxn(3, 0, 1, kafka.None)
	appendTxn(3, 1, 1, kafka.None)
	mark(4, 1, true, kafka.None)
	appendTxn(4, 5, 2, kafka.OutOfOrderSequenceNumber)
	appendTxn(4, 0, 2, kafka.None)
	l, raised = newRig(Shared{}).Log, false
	appendTxn(3, 5, 1, kafka.None) // it may have been forgotten
}

// TestStableIsInTheLog: the last stable offset does not stay below a start that DeleteRecords has raised over an open transaction's.
func TestStableIsInTheLog(t *testing.T) {
	r := newRig(Shared{})
	for seq := range int32(5) {
		batch, h := txnBatch(t, 0, seq)
		if _, err := r.AppendTxn(batch, h, 1, true); err != nil {
			t.Fatal(err)
		}
	}
	r.wal.flush(5)
	r.SetLogStart(3)
	if o := r.Offsets(); o.LogStart != 3 || o.LastStable != 3 || o.HighWatermark != 5 {
		t.Errorf("%+v", o)
	}
	if off, _, _, _, err := r.listSpecial(Latest, kafka.ReadCommitted); off != 3 || err != nil {
		t.Errorf("latest of read_committed is %d, %v", off, err)
	}
	if res, err := r.Read(t.Context(), 3, 1000, kafka.ReadCommitted, nil); err != nil || len(res.Bufs) > 0 || res.LastStable != 3 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestNumbers: behind the largest number comes 0.
func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		n, last int32
		want    bool
	}{{1, 2, true}, {2, 2, false}, {2, 1, false}, {math.MaxInt32, 0, true}, {0, math.MaxInt32, false}, {5, -1, false}, {-1, 5, true}} {
		if got := before(c.n, c.last); got != c.want {
			t.Errorf("%d lies before %d: %v", c.n, c.last, got)
		}
	}
}
