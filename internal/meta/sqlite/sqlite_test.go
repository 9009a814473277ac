package sqlite_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/metatest"
	"github.com/varvelog/varve/internal/meta/sqlite"
)

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	metatest.Run(t, func(t *testing.T) meta.Store { return open(t, filepath.Join(t.TempDir(), "meta db?.db")) })
}

func TestFaultConformance(t *testing.T) {
	metatest.RunFaults(t, func(t *testing.T) (meta.Store, metatest.Faults) {
		return metatest.WithFaults(open(t, filepath.Join(t.TempDir(), "meta.db")))
	})
}

// turns hands each call to another of two stores.
type turns struct {
	stores [2]meta.Store
	n      atomic.Uint64
}

func (s *turns) next() meta.Store { return s.stores[s.n.Add(1)%2] }

func (s *turns) Get(ctx context.Context, k meta.Key) (meta.Item, error) { return s.next().Get(ctx, k) }
func (s *turns) Query(ctx context.Context, pk string, r meta.Range) ([]meta.Item, bool, error) {
	return s.next().Query(ctx, pk, r)
}
func (s *turns) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	return s.next().Commit(ctx, id, ops...)
}

// TestTwoHandles runs the suite over two independent handles of one file, as
// two processes have them.
func TestTwoHandles(t *testing.T) {
	metatest.Run(t, func(t *testing.T) meta.Store {
		path := filepath.Join(t.TempDir(), "meta.db")
		return &turns{stores: [2]meta.Store{open(t, path), open(t, path)}}
	})
}

func TestDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	k := meta.Key{PK: "p", SK: "s"}
	if err := s.Commit(t.Context(), "id", meta.Create(k, meta.Attrs{"n": int64(7)})); err != nil {
		t.Fatal(err)
	}
	if it, err := open(t, path).Get(t.Context(), k); err != nil || it.Attrs["n"] != int64(7) || it.CommitID != "id" {
		t.Fatalf("%+v, %v", it, err)
	}
}
