package retention

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

func (r *rig) txn(id string, state catalog.TxnState, age time.Duration) {
	r.t.Helper()
	txn, err := r.cat.ReadTxn(r.t.Context(), r.slot.Slot, id)
	r.must(err)
	txn.State, txn.UpdateMs = state, time.Now().Add(-age).UnixMilli()
	_, err = r.cat.SaveTxn(r.t.Context(), txn)
	r.must(err)
}

func (r *rig) wantTxns(want ...string) {
	r.t.Helper()
	all, err := r.cat.Txns(r.t.Context(), r.slot.Slot)
	r.must(err)
	var got []string
	for _, txn := range all {
		got = append(got, fmt.Sprint(txn.ID, " ", txn.State))
	}
	if d := cmp.Diff(want, got); d != "" {
		r.t.Errorf("transactional ids (-want +got):\n%s", d)
	}
}

// TestTxns: an id goes transactional.id.expiration.ms (a week) behind its last transaction, but not within one.
func TestTxns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		for _, state := range []catalog.TxnState{catalog.TxnEmpty, catalog.TxnOngoing, catalog.TxnPrepareAbort, catalog.TxnPrepareCommit, catalog.TxnCompleteAbort, catalog.TxnCompleteCommit} {
			r.txn("old-"+string(state), state, week+time.Minute)
			r.txn("young-"+string(state), state, week-time.Minute)
		}
		stats, err := r.job("function").Turn(t.Context())
		r.must(err)
		if stats.Txns != 3 {
			t.Errorf("%d ids expired", stats.Txns)
		}
		r.wantTxns("old-Ongoing Ongoing", "old-PrepareAbort PrepareAbort", "old-PrepareCommit PrepareCommit",
			"young-CompleteAbort CompleteAbort", "young-CompleteCommit CompleteCommit", "young-Empty Empty",
			"young-Ongoing Ongoing", "young-PrepareAbort PrepareAbort", "young-PrepareCommit PrepareCommit")
	})
}

// A producer that comes back while its id is looked at keeps it.
func TestTxnInUseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.txn("id", catalog.TxnEmpty, week+time.Minute)
		gone := false
		r.meta.Hook = func(op string, ops []meta.Op) memmeta.Fault {
			if op == "commit" && ops[0].Kind == meta.OpDelete && ops[0].Key.PK == fmt.Sprintf("txns/%05d", r.slot.Slot) {
				r.meta.Hook = nil
				gone = true
				r.txn("id", catalog.TxnOngoing, 0)
			}
			return memmeta.Fault{}
		}
		r.turns(1)
		if !gone {
			t.Error("the id did not expire")
		}
		r.wantTxns("id Ongoing")
	})
}

// Offsets that wait for a transaction's end keep their group.
func TestPendingKeepsTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.group("g", catalog.SavedGroup{}, week+day)
		g, _, err := r.cat.LoadGroup(t.Context(), "g")
		r.must(err)
		r.must(r.cat.PutPending(t.Context(), g, 7, catalog.PendingOffsets{Number: 1, Offsets: map[kafka.TopicPartition]catalog.GroupOffset{r.tp: {Offset: 9}}}))
		r.turns(1)
		r.wantGroups("g 1")
		g, _, err = r.cat.LoadGroup(t.Context(), "g")
		r.must(err)
		r.must(r.cat.PutPending(t.Context(), g, 7, catalog.PendingOffsets{Number: 1}))
		time.Sleep(week/groupScans + time.Minute)
		r.turns(1)
		r.wantGroups()
	})
}
