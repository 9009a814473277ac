package group_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestEndIsToldWhenItIsDurable: while a transaction's end is being written its offsets are neither the
// group's nor nobody's. Who asked for stable ones, and got those of before, would do the work
// of the transaction again; and so would who hears of the end by another that tells it, too.
func TestEndIsToldWhenItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inTxn = func(context.Context, group.Transaction, string, bool) (int32, kafka.ErrorCode) { return 7, kafka.None }
		c, stop := w.start("offsets.commit.interval.ms", "1000") // so that the end's write does not begin at once
		defer stop()
		stable := func() (int64, kafka.ErrorCode) {
			r := kmsg.NewPtrOffsetFetchRequest()
			r.Version, r.Group, r.RequireStable = 7, "g", true
			r.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
			p := c.OffsetFetch(t.Context(), r).Topics[0].Partitions[0]
			return p.Offset, kafka.ErrorCode(p.ErrorCode)
		}
		want(t, "commit", commit(t, c, commitReq("g", "", -1, "t", 3)), kafka.None)
		r := kmsg.NewPtrTxnOffsetCommitRequest()
		r.Version, r.TransactionalID, r.Group, r.ProducerID, r.Generation = 3, "x", "g", 1, -1
		r.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 5, LeaderEpoch: -1}}}}
		want(t, "commit in a transaction", c.TxnOffsetCommit(t.Context(), r).Topics[0].Partitions[0].ErrorCode, 0)

		w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
			if op == "commit" {
				return memmeta.Fault{Before: time.Second}
			}
			return memmeta.Fault{}
		}
		var ends sync.WaitGroup
		begin := time.Now()
		for range 2 { // as two coordinators of transactions do, of which one takes over from the other
			ends.Go(func() {
				want(t, "end", c.EndTxn(t.Context(), "g", 1, 7, true), kafka.None)
				if d := time.Since(begin); d < 2*time.Second { // a commit of the offset, and one of what is pending
					t.Errorf("an end is told %s after it began", d)
				}
				offset, code := stable()
				want(t, "code behind the end", code, kafka.None)
				want(t, "offset behind the end", offset, int64(5))
			})
			synctest.Wait()
			_, code := stable()
			want(t, "code amid the end", code, kafka.UnstableOffsetCommit)
		}
		ends.Wait()
	})
}
