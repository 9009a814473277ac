package txn

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestUndecided: a decision whose write has not been seen to be applied is nobody's to carry out.
func TestUndecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memmeta.New()
		i := Items{Catalog: catalog.New(store), Slots: 1}
		id := newID(t)
		p := id.init(producer{none, none}, kafka.None)
		id.add(p, 1, kafka.None)
		if _, out := i.update(t.Context(), "a", func(now *catalog.Txn, _ time.Time) outcome {
			now.ProducerID, now.Epoch, now.State, now.Number, now.TimeoutMs = p.id, p.epoch, catalog.TxnOngoing, 1, 1000
			now.Add(kafka.TopicPartition{Partition: 1})
			return outcome{save: true}
		}); out.code != kafka.None {
			t.Fatalf("%+v", out)
		}
		store.Hook = func(_ string, ops []meta.Op) memmeta.Fault {
			return memmeta.Fault{Fail: len(ops) > 0, Before: time.Millisecond}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		seen, out := i.update(ctx, "a", end{producer: p, commit: true, fresh: none}.step)
		if out.code == kafka.None || seen.Prepared() {
			t.Errorf("%+v: %+v", out, seen)
		}
	})
}
