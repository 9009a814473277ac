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

	mu     sync.Mutex
	cost   int64              // of all loaded values
	unused int64              // of those that were prefetched and nobody has asked for yet
	items  map[K]*entry[K, V] // loaded or being loaded
	order  *list.List         // of *entry, loaded ones, the most recently used first
}

// entry is a value that is there or being loaded.
type entry[K comparable, V any] struct {
	key   K
	ready chan struct{} // closed when value, err and retry are set

	value V
	err   error
	retry bool // err is due to the loader's context

	// Under lru.mu.
	cost   int64
	unused bool
	elem   *list.Element // nil: not loaded, or dropped
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: make(map[K]*entry[K, V]), order: list.New()}
}

// get returns the value of key, which load makes, with its cost, where it is
// not there. A failure is not kept. Of concurrent callers one loads, with its
// own context; when that ends, another loads again.
func (l *lru[K, V]) get(ctx context.Context, key K, load func(context.Context) (V, int64, error)) (V, error) {
	for {
		e, mine := l.join(key, false)
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

// prefetch loads a value that nobody has asked for yet. It returns false if it is there,
// being loaded, or can't be loaded.
func (l *lru[K, V]) prefetch(ctx context.Context, key K, load func(context.Context) (V, int64, error)) bool {
	e, mine := l.join(key, true)
	if mine {
		l.load(ctx, e, load)
	}
	return mine && e.err == nil
}

// join returns the entry of key, and whether the caller has to load it.
func (l *lru[K, V]) join(key K, ahead bool) (e *entry[K, V], mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		e = &entry[K, V]{key: key, ready: make(chan struct{}), unused: ahead}
		l.items[key] = e
		return e, true
	}
	if ahead {
		return e, false
	}
	if e.unused {
		e.unused = false
		l.unused -= e.cost
	}
	if e.elem != nil {
		l.order.MoveToFront(e.elem)
	}
	return e, false
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
		delete(l.items, e.key)
		return
	}
	for l.cost+cost > l.limit {
		l.drop(l.order.Back().Value.(*entry[K, V]))
	}
	e.cost = cost
	l.cost += cost
	if e.unused {
		l.unused += cost
	}
	e.elem = l.order.PushFront(e)
}

// drop is called with mu held.
func (l *lru[K, V]) drop(e *entry[K, V]) {
	l.cost -= e.cost
	if e.unused {
		l.unused -= e.cost
	}
	l.order.Remove(e.elem)
	e.elem = nil
	delete(l.items, e.key)
}

// roomAhead tells whether a prefetched value of that cost may come: half of
// the room is for what is in use.
func (l *lru[K, V]) roomAhead(cost int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unused+cost <= l.limit/2
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
