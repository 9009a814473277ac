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
		p := producer{id: 7}
		for _, s := range []step{
			initialize{timeoutMs: 1000, expected: producer{none, none}, fresh: p.id}.step,
			add{producer: p, partitions: []kafka.TopicPartition{{Partition: 1}}}.step,
		} {
			if _, out := i.update(t.Context(), "a", s); out.code != kafka.None {
				t.Fatalf("%+v", out)
			}
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
