// Package memmeta is a metadata store in memory, for tests: it can fail in
// every way that a remote one can.
package memmeta

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/meta"
)

// ErrInjected is what a call with an injected fault returns: an unknown outcome.
var ErrInjected = errors.New("memmeta: injected fault, outcome unknown")

// Fault is what becomes of a call.
type Fault struct {
	Busy   bool          // ErrBusy, not applied
	Fail   bool          // an error of unknown outcome; not applied
	Apply  bool          // with Fail: applied all the same
	Later  time.Duration // with Fail: tried so much later, if its conditions hold then
	Before time.Duration // wait before anything happens
	After  time.Duration // wait before the answer
}

// Store is a metadata store in memory.
type Store struct {
	// Hook decides each call's fault, if set: op is "get", "query" or
	// "commit". It is called without locks held.
	Hook func(op string, ops []meta.Op) Fault

	mu    sync.Mutex
	parts map[string]*part
}

// part is what has one partition key.
type part struct {
	items map[string]meta.Item
	keys  []string // sorted
}

// New returns an empty store.
func New() *Store { return &Store{parts: make(map[string]*part)} }

// item returns an item; s.mu is held.
func (s *Store) item(key meta.Key) (item meta.Item, ok bool) {
	if p := s.parts[key.PK]; p != nil {
		item, ok = p.items[key.SK]
	}
	return item, ok
}

func (s *Store) fault(ctx context.Context, op string, ops []meta.Op) (Fault, error) {
	if s.Hook == nil {
		return Fault{}, ctx.Err()
	}
	f := s.Hook(op, ops)
	return f, wait(ctx, f.Before)
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key meta.Key) (meta.Item, error) {
	f, err := s.fault(ctx, "get", nil)
	if err != nil {
		return meta.Item{}, err
	}
	if f.Fail || f.Busy {
		return meta.Item{}, ErrInjected
	}
	s.mu.Lock()
	item, ok := s.item(key)
	s.mu.Unlock()
	if err := wait(ctx, f.After); err != nil {
		return meta.Item{}, err
	}
	if !ok {
		return meta.Item{}, meta.ErrNotFound
	}
	item.Attrs = maps.Clone(item.Attrs)
	return item, nil
}

// Query implements meta.Store.
func (s *Store) Query(ctx context.Context, pk string, r meta.Range) ([]meta.Item, bool, error) {
	f, err := s.fault(ctx, "query", nil)
	if err != nil {
		return nil, false, err
	}
	if f.Fail || f.Busy {
		return nil, false, ErrInjected
	}
	items, more := s.query(pk, r)
	return items, more, wait(ctx, f.After)
}

func (s *Store) query(pk string, r meta.Range) (items []meta.Item, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, limit := s.parts[pk], r.Limit
	if p == nil {
		return nil, false
	}
	if limit <= 0 {
		limit = 1000
	}
	for _, sk := range p.within(r) {
		if len(items) == limit {
			return items, true
		}
		item := p.items[sk]
		item.Attrs = maps.Clone(item.Attrs)
		items = append(items, item)
	}
	return items, false
}

// within returns the keys of a range, in its order.
func (p *part) within(r meta.Range) []string {
	from, _ := slices.BinarySearch(p.keys, r.Prefix)
	to := from + sort.Search(len(p.keys)-from, func(i int) bool { return !strings.HasPrefix(p.keys[from+i], r.Prefix) })
	if r.After != "" {
		at, found := slices.BinarySearch(p.keys, r.After)
		if r.Reverse {
			to = max(from, min(to, at))
		} else if from = min(to, max(from, at)); found && from == at {
			from = min(to, at+1)
		}
	}
	keys := p.keys[from:to]
	if !r.Reverse {
		return keys
	}
	limit := len(keys)
	if r.Limit > 0 {
		limit = min(limit, r.Limit+1)
	}
	last := slices.Clone(keys[len(keys)-limit:])
	slices.Reverse(last)
	return last
}

// Commit implements meta.Store.
func (s *Store) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	if err := meta.Validate(id, ops); err != nil {
		return err
	}
	f, err := s.fault(ctx, "commit", ops)
	if err != nil {
		return err
	}
	switch {
	case f.Busy:
		return meta.ErrBusy
	case f.Fail && f.Apply:
		_ = s.apply(id, ops) // the answer is lost
	case f.Fail && f.Later > 0:
		time.AfterFunc(f.Later, func() { _ = s.apply(id, ops) }) // lands late, or finds its condition false
	case !f.Fail:
		err = s.apply(id, ops)
	}
	if werr := wait(ctx, f.After); werr != nil {
		return werr
	}
	if f.Fail {
		return ErrInjected
	}
	return err
}

func (s *Store) apply(id string, ops []meta.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		item, _ := s.item(op.Key)
		if !op.Holds(item) {
			return meta.ErrConflict
		}
	}
	for _, op := range ops {
		switch op.Kind {
		case meta.OpCreate, meta.OpReplace:
			s.put(meta.Item{Key: op.Key, Version: op.Old.Version + 1, CommitID: id, Attrs: maps.Clone(op.Attrs)})
		case meta.OpDelete:
			s.remove(op.Key)
		case meta.OpCheck:
		}
	}
	return nil
}

func (s *Store) put(item meta.Item) {
	p := s.parts[item.PK]
	if p == nil {
		p = &part{items: make(map[string]meta.Item)}
		s.parts[item.PK] = p
	}
	if at, found := slices.BinarySearch(p.keys, item.SK); !found {
		p.keys = slices.Insert(p.keys, at, item.SK)
	}
	p.items[item.SK] = item
}

func (s *Store) remove(key meta.Key) {
	p := s.parts[key.PK]
	if p == nil {
		return
	}
	if at, found := slices.BinarySearch(p.keys, key.SK); found {
		p.keys = slices.Delete(p.keys, at, at+1)
		delete(p.items, key.SK)
	}
}
