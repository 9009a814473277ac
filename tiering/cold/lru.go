package cold

import (
	"container/list"
	"context"
	"sync"
)

// lru keeps loaded values up to a total cost; the least recently used go
// first. Concurrent loads of one key are one. What is being loaded counts
// towards the bound once it is there: it is bounded by the number of callers.
type lru[K comparable, V any] struct {
	limit int64

	mu    sync.Mutex
	cost  int64              // of all loaded values
	ahead int64              // of those that are or were prefetched and nobody has asked for yet
	items map[K]*entry[K, V] // loaded or being loaded
	order *list.List         // of *entry, loaded ones, the most recently used first
}

// entry is a value that is there or being loaded.
type entry[K comparable, V any] struct {
	key   K
	ready chan struct{} // closed when value, err and retry are set

	value V
	err   error
	retry bool // err is due to the loader's context

	// Under lru.mu.
	cost  int64
	ahead int64         // what it counts in lru.ahead
	elem  *list.Element // nil: not loaded, or dropped
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: make(map[K]*entry[K, V]), order: list.New()}
}

// get returns the value of key, which load makes, with its cost, where it is
// not there. A failure is not kept. Of concurrent callers one loads, with its
// own context; when that ends, another loads again.
func (l *lru[K, V]) get(ctx context.Context, key K, load func(context.Context) (V, int64, error)) (V, error) {
	for {
		e, mine := l.join(key)
		if mine {
			l.load(ctx, e, load)
			return e.value, e.err
		}
		select {
		case <-e.ready:
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
		if !e.retry {
			return e.value, e.err
		}
	}
}

// prefetch loads a value of about that cost that nobody has asked for yet,
// unless such values would take more than half of the room. It tells whether it loaded.
func (l *lru[K, V]) prefetch(ctx context.Context, key K, cost int64, load func(context.Context) (V, int64, error)) bool {
	e := l.reserve(key, cost)
	if e == nil {
		return false
	}
	l.load(ctx, e, load)
	return e.err == nil
}

// join returns the entry of key, and whether the caller has to load it.
func (l *lru[K, V]) join(key K) (e *entry[K, V], mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		e = &entry[K, V]{key: key, ready: make(chan struct{})}
		l.items[key] = e
		return e, true
	}
	l.ahead -= e.ahead
	e.ahead = 0
	if e.elem != nil {
		l.order.MoveToFront(e.elem)
	}
	return e, false
}

// reserve returns a new entry of key, to be loaded, or nil.
func (l *lru[K, V]) reserve(key K, cost int64) *entry[K, V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.items[key]; ok || l.ahead+cost > l.limit/2 {
		return nil
	}
	e := &entry[K, V]{key: key, ready: make(chan struct{}), ahead: cost}
	l.items[key] = e
	l.ahead += cost
	return e
}

func (l *lru[K, V]) load(ctx context.Context, e *entry[K, V], load func(context.Context) (V, int64, error)) {
	bounded, cancel := context.WithTimeout(ctx, loadTimeout)
	value, cost, err := load(bounded)
	cancel()
	e.value, e.err, e.retry = value, err, err != nil && ctx.Err() != nil
	l.loaded(e, cost)
	close(e.ready)
}

// loaded keeps an entry that loaded, and makes room for it.
func (l *lru[K, V]) loaded(e *entry[K, V], cost int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.err != nil || cost > l.limit {
		l.ahead -= e.ahead
		delete(l.items, e.key)
		return
	}
	for l.cost+cost > l.limit {
		l.drop(l.order.Back().Value.(*entry[K, V]))
	}
	e.cost = cost
	l.cost += cost
	e.elem = l.order.PushFront(e)
}

// drop is called with mu held.
func (l *lru[K, V]) drop(e *entry[K, V]) {
	l.cost -= e.cost
	l.ahead -= e.ahead
	l.order.Remove(e.elem)
	e.elem = nil
	delete(l.items, e.key)
}

// roomAhead returns the cost of the values that may be prefetched now.
func (l *lru[K, V]) roomAhead() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limit/2 - l.ahead
}

// has tells whether a value is there or being loaded.
func (l *lru[K, V]) has(key K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.items[key]
	return ok
}

// size returns the cost of all values.
func (l *lru[K, V]) size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cost
}
