package cold

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func TestLRU(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := newLRU[int, int](100)
		var used []int // keys in the order of their use, by the model
		cost := func(k int) int64 { return int64(5 + k*7%40) }
		loads := 0
		load := func(k int) func(context.Context) (int, int64, error) {
			return func(context.Context) (int, int64, error) {
				loads++
				if k == 13 {
					return 0, 1, errors.New("unlucky")
				}
				return k, cost(k), nil
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"get": func(rt *rapid.T) {
				k := rapid.IntRange(0, 20).Draw(rt, "key")
				there, before := l.has(k), loads
				v, err := l.get(t.Context(), k, load(k))
				if k == 13 {
					if err == nil || l.has(k) {
						rt.Fatalf("a failure was kept")
					}
					return
				}
				if v != k || err != nil || there != (loads == before) {
					rt.Fatalf("got %d, %v, after %d loads, there: %v", v, err, loads-before, there)
				}
				used = append(used, k)
			},
			"prefetch": func(rt *rapid.T) {
				k := rapid.IntRange(0, 20).Draw(rt, "key")
				there := l.has(k)
				if l.prefetch(t.Context(), k, cost(k), load(k)) && (there || k == 13) {
					rt.Fatalf("prefetched %d, which was there or can't be", k)
				}
			},
			"": func(rt *rapid.T) {
				var sum, ahead int64
				for e := l.order.Front(); e != nil; e = e.Next() {
					it := e.Value.(*entry[int, int])
					sum += it.cost
					ahead += it.ahead
				}
				if sum != l.cost || ahead != l.ahead || sum > l.limit || ahead > l.limit/2 || len(l.items) != l.order.Len() {
					rt.Fatalf("cost %d counted, %d there; ahead %d and %d; %d items, %d in order", l.cost, sum, l.ahead, ahead, len(l.items), l.order.Len())
				}
				if n := len(used); n > 0 && l.order.Len() > 0 && l.ahead == 0 && l.order.Front().Value.(*entry[int, int]).key != used[n-1] {
					rt.Fatalf("the last one used is not in front")
				}
			},
		})
	})
}

// A value that is larger than all the room is returned, and not kept.
func TestLRUTooLarge(t *testing.T) {
	l := newLRU[int, int](10)
	for range 2 {
		if v, err := l.get(t.Context(), 1, func(context.Context) (int, int64, error) { return 7, 11, nil }); v != 7 || err != nil {
			t.Errorf("got %d, %v", v, err)
		}
	}
	if l.size() != 0 || l.has(1) {
		t.Errorf("it was kept")
	}
}

// The one that loads leaves: another one of those that wait loads again. A waiter that leaves
// only leaves.
func TestLRULoaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLRU[int, int](10)
		loaderCtx, leave := context.WithCancel(t.Context())
		go l.get(loaderCtx, 1, func(ctx context.Context) (int, int64, error) {
			<-ctx.Done()
			return 0, 0, ctx.Err()
		})
		synctest.Wait()
		waiterCtx, leaveToo := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := l.get(waiterCtx, 1, nil)
			left <- err
		}()
		got := make(chan int, 2)
		for range 2 {
			go func() {
				v, _ := l.get(t.Context(), 1, func(context.Context) (int, int64, error) { return 5, 1, nil })
				got <- v
			}()
		}
		synctest.Wait()
		leaveToo()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("waiter that left: %v", err)
		}
		leave()
		if a, b := <-got, <-got; a != 5 || b != 5 {
			t.Errorf("got %d and %d, want 5", a, b)
		}
	})
}
