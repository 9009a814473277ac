package enginetest

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestHints: brokers tell each other of changes. What waits until all have one (CreateTopics) does not wait
// until they read the feed by themselves, each second.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := calmWorld(t, cancel, 3, nil)
		defer w.end()
		w.startAll(ctx)
		wait(ctx, 20*time.Second) // slots are even
		cl := w.client()
		defer cl.Close()
		var longest time.Duration
		for i := range 20 {
			begin := time.Now()
			if err := createTopic(ctx, cl, fmt.Sprint("told-", i), 1, nil); err != nil {
				t.Fatal(err)
			}
			longest = max(longest, time.Since(begin))
		}
		t.Logf("a topic is made, and known to all, in %v at most", longest)
		if longest > 250*time.Millisecond {
			t.Error("brokers do not tell each other")
		}
	})
}
