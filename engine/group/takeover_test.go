package group_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// fetchTopic returns the offset of a topic's partition 0 by name.
func fetchTopic(t *testing.T, c *group.Coordinator, g, topic string) int64 {
	t.Helper()
	r := kmsg.NewPtrOffsetFetchRequest()
	r.Version, r.Group = 5, g
	r.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: topic, Partitions: []int32{0}}}
	resp := c.OffsetFetch(t.Context(), r)
	want(t, "fetch", resp.ErrorCode, 0)
	return resp.Topics[0].Partitions[0].Offset
}

// TestOwnerThatLagsBehind: an owner whose snapshot of the topics is older than
// the offsets that it loads neither denies nor expires them.
func TestOwnerThatLagsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lagging, stop := w.start()
		defer stop()
		_, err := catalog.New(w.store).CreateTopic(t.Context(), catalog.Topic{Name: "u", Partitions: 1, ReplicationFactor: 1})
		w.check(err)
		first, stopFirst := w.start()
		want(t, "commit", commit(t, first, commitReq("s", "", -1, "u", 5)), kafka.None)
		stopFirst()
		want(t, "offset by the next owner", fetchTopic(t, lagging, "s", "u"), 5)
		time.Sleep(30 * time.Minute) // expiry has looked
		again, stopAgain := w.start()
		defer stopAgain()
		want(t, "offset later", fetchTopic(t, again, "s", "u"), 5)
	})
}
