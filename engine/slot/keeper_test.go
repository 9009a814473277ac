package slot

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

// TestCheckpointOfManyBatches: more batches than the footer of one checkpoint lists go into several; the tails of a slot that
// has too many alone are sealed.
func TestCheckpointOfManyBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.end()
		n := r.start(1, "wal.checkpoint.objects", "100000")
		r.until("all slots", time.Second, holding(map[*node]int{n: slots}))
		for i := range 30 {
			n.appendAll(i)
		}
		for i := range 400 {
			if err := n.append(t.Context(), 0, fmt.Sprint("more ", i)); err != nil {
				t.Fatal(err)
			}
		}
		k := n.m.Load().keeper
		before := r.checkpoints()
		err := k.ask(t.Context(), func(ctx context.Context) error {
			k.uploads.MaxFooter = 3000
			return k.checkpoint(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := r.checkpoints() - before; n < 4 {
			t.Errorf("%d checkpoints", n)
		}
		sealed := 0
		for p := range int32(partitions) {
			if _, ok, err := n.cat.NewestSegment(t.Context(), kafka.TopicPartition{Topic: r.topic.ID, Partition: p}); ok && n.slotOf(p) == n.slotOf(0) {
				sealed++
			} else if ok || err != nil {
				t.Errorf("partition %d was sealed, or not: %v", p, err)
			}
		}
		if sealed == 0 {
			t.Error("the long tail was not sealed")
		}
		n.kill()
		r.start(2)
		r.check()
	})
}
