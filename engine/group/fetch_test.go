package group_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestFetchWaitsForCommits: who asks for offsets is told those that were taken before, though they are still being written, or wait
// for that: an older one, consumed from and committed behind it, would take back what was acknowledged.
func TestFetchWaitsForCommits(t *testing.T) {
	for _, interval := range []string{"0", "100"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, stop := w.start("offsets.commit.interval.ms", interval)
			defer stop()
			want(t, "first", commit(t, c, commitReq("s", "", -1, "t", 0)), kafka.None)
			w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
				if op != "commit" {
					return memmeta.Fault{}
				}
				return memmeta.Fault{Before: time.Second}
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			for i := range int64(3) { // the first is being written, the others wait
				wg.Go(func() { want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 16+i)), kafka.None) })
				synctest.Wait()
				if i == 1 {
					continue
				}
				off, code := fetch(t, c, "s")
				want(t, "fetched", off, 16+i)
				want(t, "code", code, kafka.None)
			}
		})
	}
}
