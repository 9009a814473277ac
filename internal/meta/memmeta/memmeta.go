// Package memmeta is a metadata store in memory, for tests: it can fail in
// every way that a remote one can.
package memmeta

import (
	"context"
	"errors"
	"maps"
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
	items map[string]map[string]meta.Item
}

// New returns an empty store.
func New() *Store { return &Store{items: make(map[string]map[string]meta.Item)} }

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
	item, ok := s.items[key.PK][key.SK]
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
	for sk, item := range s.items[pk] {
		if !strings.HasPrefix(sk, r.Prefix) || r.After != "" && (!r.Reverse && sk <= r.After || r.Reverse && sk >= r.After) {
			continue
		}
		item.Attrs = maps.Clone(item.Attrs)
		items = append(items, item)
	}
	sort.Slice(items, func(i, j int) bool { return (items[i].SK < items[j].SK) != r.Reverse })
	limit := r.Limit
	if limit <= 0 {
		limit = 1000
	}
	if len(items) > limit {
		return items[:limit], true
	}
	return items, false
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
		if !op.Holds(s.items[op.Key.PK][op.Key.SK]) {
			return meta.ErrConflict
		}
	}
	for _, op := range ops {
		switch op.Kind {
		case meta.OpCreate, meta.OpReplace:
			if s.items[op.Key.PK] == nil {
				s.items[op.Key.PK] = make(map[string]meta.Item)
			}
			s.items[op.Key.PK][op.Key.SK] = meta.Item{Key: op.Key, Version: op.Old.Version + 1, CommitID: id, Attrs: maps.Clone(op.Attrs)}
		case meta.OpDelete:
			delete(s.items[op.Key.PK], op.Key.SK)
		case meta.OpCheck:
		}
	}
	return nil
}
