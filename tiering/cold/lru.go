package cold

import (
	"container/list"
	"context"
	"sync"
)

// lru keeps loaded values up to a total cost, the least recently used go
// first. Concurrent loads of one key are one.
type lru[K comparable, V any] struct {
	limit int64

	mu    sync.Mutex
	cost  int64
	items map[K]*list.Element // of *entry[K, V]
	order *list.List          // most recently used first
}

type entry[K comparable, V any] struct {
	key   K
	ready chan struct{} // closed when value and err are set
	value V
	err   error
	cost  int64
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: make(map[K]*list.Element), order: list.New()}
}

// get returns the value of key, which load makes where it is not there. A
// failure is not kept. load runs on although its caller's ctx ends: others may
// be waiting for it.
func (l *lru[K, V]) get(ctx context.Context, key K, load func(context.Context) (V, int64, error)) (V, error) {
	l.mu.Lock()
	if el, ok := l.items[key]; ok {
		l.order.MoveToFront(el)
		l.mu.Unlock()
		e := el.Value.(*entry[K, V])
		select {
		case <-e.ready:
			return e.value, e.err
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
	}
	e := &entry[K, V]{key: key, ready: make(chan struct{})}
	l.items[key] = l.order.PushFront(e)
	l.mu.Unlock()

	loadCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	value, cost, err := load(loadCtx)
	cancel()
	e.value, e.err = value, err
	close(e.ready)
	l.loaded(e, cost)
	return value, err
}

func (l *lru[K, V]) loaded(e *entry[K, V], cost int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.items[e.key]
	if !ok || el.Value.(*entry[K, V]) != e {
		return // removed meanwhile
	}
	if e.err != nil {
		l.drop(el)
		return
	}
	e.cost = cost
	l.cost += cost
	for el := l.order.Back(); el != nil && l.cost > l.limit && l.order.Len() > 1; {
		before := el.Prev()
		if old := el.Value.(*entry[K, V]); old != e && old.cost > 0 {
			l.drop(el)
		}
		el = before
	}
}

// drop is called with mu held.
func (l *lru[K, V]) drop(el *list.Element) {
	e := el.Value.(*entry[K, V])
	l.cost -= e.cost
	l.order.Remove(el)
	delete(l.items, e.key)
}

func (l *lru[K, V]) has(key K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.items[key]
	return ok
}

func (l *lru[K, V]) remove(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if el, ok := l.items[key]; ok {
		l.drop(el)
	}
}
