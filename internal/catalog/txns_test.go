package catalog_test

import (
	"strings"
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

func TestTxns(t *testing.T) {
	c := catalog.New(memmeta.New())
	read := func(id string) catalog.Txn { return must[catalog.Txn](t)(c.ReadTxn(t.Context(), 3, id)) }
	for _, id := range []string{"a", "\x00b", "c/d"} {
		txn := read(id)
		if txn.Exists() {
			t.Errorf("%q is there", id)
		}
		txn.ProducerID, txn.State, txn.Number = 7, catalog.TxnOngoing, 5
		txn.Add(kafka.TopicPartition{Partition: 9})
		txn.Add(kafka.TopicPartition{Partition: 2})
		txn.Add(kafka.TopicPartition{Partition: 2})
		saved := must[catalog.Txn](t)(c.SaveTxn(t.Context(), txn))
		again := read(id)
		if again.ID != id || again.ProducerID != 7 || again.Count() != 2 || !again.Has(kafka.TopicPartition{Partition: 9}) || again.Has(kafka.TopicPartition{Partition: 3}) {
			t.Errorf("%q: %+v", id, again)
		}
		same(t, []kafka.TopicPartition{{Partition: 2}, {Partition: 9}}, must[[]kafka.TopicPartition](t)(again.All()))
		_, err := c.SaveTxn(t.Context(), txn) // as it was before
		wantErr(t, err, catalog.ErrFenced)
		saved = must[catalog.Txn](t)(c.SaveTxn(t.Context(), saved)) // what is saved and what is read serve alike
		wantErr(t, c.DeleteTxn(t.Context(), again), catalog.ErrFenced)
		if id == "a" {
			ok(t, c.DeleteTxn(t.Context(), saved))
			ok(t, c.DeleteTxn(t.Context(), saved))
		}
	}
	all := must[[]catalog.Txn](t)(c.Txns(t.Context(), 3))
	if len(all) != 2 || all[0].ID != "\x00b" || all[1].ID != "c/d" || all[1].Slot != 3 {
		t.Errorf("listed: %+v", all)
	}
	_, err := c.SaveTxn(t.Context(), read(strings.Repeat("x", 2000)))
	wantErr(t, err, catalog.ErrTooLarge)
}

func TestPendingOffsets(t *testing.T) {
	c := catalog.New(memmeta.New())
	_, slot := owner(t, c, 1)
	g, _ := load(t, c, "g")
	g.Value = []byte("v")
	g = must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g))
	one := catalog.PendingOffsets{Number: 4, Offsets: offsets{{Partition: 1}: {Offset: 5}, {Partition: 2}: {Offset: 6}}}
	ok(t, c.PutPending(t.Context(), g, 7, one))
	ok(t, c.PutPending(t.Context(), g, 8, catalog.PendingOffsets{Number: 1, Offsets: offsets{{}: {Offset: 1}}}))
	ok(t, c.PutPending(t.Context(), g, 9, catalog.PendingOffsets{Number: 1})) // it never had any
	pending := func() map[int64]catalog.PendingOffsets {
		t.Helper()
		again, plain := load(t, c, "g")
		if len(plain) != 0 {
			t.Errorf("what is pending is the group's: %v", plain)
		}
		return again.Pending
	}
	same(t, map[int64]catalog.PendingOffsets{7: one, 8: {Number: 1, Offsets: offsets{{}: {Offset: 1}}}}, pending())
	ok(t, c.PutPending(t.Context(), g, 8, catalog.PendingOffsets{Number: 1}))
	same(t, map[int64]catalog.PendingOffsets{7: one}, pending())

	// The state's next write removes what has ended, and fences who saved before.
	old := g
	g = must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g))
	wantErr(t, c.PutPending(t.Context(), old, 8, one), catalog.ErrFenced)
	ok(t, c.PutPending(t.Context(), g, 8, one))
	same(t, map[int64]catalog.PendingOffsets{7: one, 8: one}, pending())
	ok(t, c.DeleteGroup(t.Context(), slot, g))
	same(t, map[int64]catalog.PendingOffsets{}, pending())
}

// TestOwnedTxn: who has owned a slot and does not know that it has gone cannot write what only its owner may.
func TestOwnedTxn(t *testing.T) {
	c := catalog.New(memmeta.New())
	mine, slot := owner(t, c, 1)
	txn := must[catalog.Txn](t)(c.ReadTxn(t.Context(), slot.Slot, "a"))
	txn.State = catalog.TxnOngoing
	txn = must[catalog.Txn](t)(c.SaveOwnedTxn(t.Context(), slot, txn))
	must[[]catalog.Slot](t)(c.CommitCheckpoint(t.Context(), mine, []catalog.Slot{slot})) // no obstacle
	txn = must[catalog.Txn](t)(c.SaveOwnedTxn(t.Context(), slot, txn))
	_, err := c.SaveOwnedTxn(t.Context(), slot, must[catalog.Txn](t)(c.ReadTxn(t.Context(), slot.Slot, "b"))) // another id is no obstacle either
	ok(t, err)
	old := txn
	txn = must[catalog.Txn](t)(c.SaveOwnedTxn(t.Context(), slot, txn))
	_, err = c.SaveOwnedTxn(t.Context(), slot, old)
	wantErr(t, err, catalog.ErrFenced)
	now := must[catalog.Slot](t)(c.Slot(t.Context(), slot.Slot))
	_, taken := takeOver(t, c, mine, now)
	_, err = c.SaveOwnedTxn(t.Context(), slot, txn)
	wantErr(t, err, catalog.ErrFenced)
	must[catalog.Txn](t)(c.SaveOwnedTxn(t.Context(), taken, txn))
}
