package enginetest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestCutOffTwice cuts a broker off from the stores until the others have its slots, twice
// within a minute: each time it has as many as before soon after.
func TestCutOffTwice(t *testing.T) {
	for _, alone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := newWorld(t, 1, 3)
			w.cancel = cancel
			w.cluster.faults.settle()
			defer w.end()
			w.startAll(ctx)
			w.createTopics(ctx)
			p := w.life(1)
			has := func(want bool, limit time.Duration) time.Duration {
				t.Helper()
				begin := time.Now()
				for ; w.held(1) != want; wait(ctx, 10*time.Millisecond) {
					if time.Since(begin) > limit {
						t.Fatalf("after %s broker 1 has its slots: %v", time.Since(begin), !want)
					}
				}
				return time.Since(begin)
			}
			has(true, time.Minute)
			for range 3 {
				p.stores.close()
				if alone {
					for _, host := range append(w.hosts()[1:], "clients") {
						w.cluster.network.between(host, p.host).close()
					}
				}
				gone := has(false, 15*time.Second)
				wait(ctx, 2*time.Second)
				p.stores.open()
				for _, host := range append(w.hosts()[1:], "clients") {
					w.cluster.network.between(host, p.host).open()
				}
				back := has(true, 2*time.Minute)
				t.Logf("cut off from all: %v: its slots were others' after %s, and its again %s after it was healed", alone, gone, back)
				if back > 10*time.Second {
					t.Errorf("after %s", back)
				}
			}
		})
	}
}

// held tells whether a broker has its share of slots.
func (w *world) held(id int32) bool {
	n, all := 0, w.owners()
	for _, owner := range all {
		if owner == id {
			n++
		}
	}
	return n >= len(all)/len(w.ids)
}
