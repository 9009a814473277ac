// Package memstore is the object store of tests: objects in memory, with a
// hook that makes calls fail in all the ways that a remote store's do.
package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/varvelog/varve/tiering/objstore"
)

// ErrInjected is in the chain of every error that a Fault made. To the caller
// it is an unknown outcome.
var ErrInjected = errors.New("memstore: injected fault")

// Op names a method of the store for the fault hook.
type Op string

// The methods of objstore.Store.
const (
	OpPut    Op = "put"
	OpReadAt Op = "readat"
	OpList   Op = "list"
	OpDelete Op = "delete"
)

// Kind says how a call fails.
type Kind uint8

// The kinds of faults. FailApplied and LandLater are those of calls that
// change something; for reads they are Fail.
const (
	None        Kind = iota // goes through
	Fail                    // fails, not applied
	FailApplied             // applied, and fails all the same
	LandLater               // fails, and is applied After the answer, if its condition holds then
	Delay                   // goes through After a time, unless the caller's context ends before: then it has failed, not applied
)

// Fault is what happens to one call.
type Fault struct {
	Kind  Kind
	After time.Duration // of LandLater and Delay
}

// Store is an object store in memory.
type Store struct {
	mu      sync.Mutex
	objects map[string][]byte // values never change
	keys    []string          // of objects, sorted
	hook    func(op Op, key string) Fault
}

var _ objstore.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{objects: make(map[string][]byte)} }

// SetFault makes f decide the fate of each call from now on; nil: no faults.
// It gets the key, of List the prefix, of Delete the first key. It is called
// without a lock held.
func (s *Store) SetFault(f func(op Op, key string) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// call runs a method's effect as the hook decides. The context is looked at
// before and, in a delay, during the call.
func (s *Store) call(ctx context.Context, op Op, key string, write bool, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	var f Fault
	if hook != nil {
		f = hook(op, key)
	}
	injected := fmt.Errorf("%w: %s %s", ErrInjected, op, key)
	switch {
	case f.Kind == None:
		return effect()
	case f.Kind == Delay:
		timer := time.NewTimer(f.After)
		defer timer.Stop()
		select {
		case <-timer.C:
			return effect()
		case <-ctx.Done():
			return ctx.Err()
		}
	case f.Kind == FailApplied && write:
		_ = effect() // its own refusal too is lost on the way
	case f.Kind == LandLater && write:
		time.AfterFunc(f.After, func() { _ = effect() })
	}
	return injected
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := objstore.ValidateKey(key); err != nil {
		return err
	}
	var b bytes.Buffer
	if bufs, ok := body.(objstore.Buffers); ok {
		b.Grow(int(bufs.Size()))
	}
	if _, err := body.WriteTo(&b); err != nil {
		return fmt.Errorf("write body of %s: %w", key, err)
	}
	return s.call(ctx, OpPut, key, true, func() error { return s.create(key, b.Bytes()) })
}

func (s *Store) create(key string, content []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, found := slices.BinarySearch(s.keys, key)
	if found {
		return fmt.Errorf("put %s: %w", key, objstore.ErrExists)
	}
	s.keys = slices.Insert(s.keys, at, key)
	s.objects[key] = content
	return nil
}

// ReadAt implements objstore.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error) {
	if err := objstore.ValidateKey(key); err != nil {
		return 0, 0, err
	}
	err = s.call(ctx, OpReadAt, key, false, func() error {
		b, ok := s.Object(key)
		if !ok {
			return fmt.Errorf("read %s: %w", key, objstore.ErrNotFound)
		}
		size = int64(len(b))
		from, count, eof := objstore.Range(size, off, len(p))
		n = copy(p, b[from:from+int64(count)])
		if eof {
			return io.EOF
		}
		return nil
	})
	return n, size, err
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	limit = objstore.ListLimit(limit, objstore.MaxList)
	err = s.call(ctx, OpList, prefix, false, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		at, _ := slices.BinarySearch(s.keys, max(prefix, after))
		for _, key := range s.keys[at:] {
			if len(infos) == limit || !strings.HasPrefix(key, prefix) && key > prefix {
				return nil
			}
			if key > after && strings.HasPrefix(key, prefix) {
				infos = append(infos, objstore.Info{Key: key, Size: int64(len(s.objects[key]))})
			}
		}
		return nil
	})
	return infos, err
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	if err := objstore.ValidateDelete(keys); err != nil {
		return err
	}
	return s.call(ctx, OpDelete, keys[0], true, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, key := range keys {
			if at, found := slices.BinarySearch(s.keys, key); found {
				s.keys = slices.Delete(s.keys, at, at+1)
				delete(s.objects, key)
			}
		}
		return nil
	})
}

// Object returns an object's content, which must not be changed, past the hook.
func (s *Store) Object(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.objects[key]
	return b, ok
}

// Keys returns all keys, sorted, past the hook.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}
