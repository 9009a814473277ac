// Package metatest is the conformance kit of meta.Store: every adapter passes
// the same suite.
package metatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/meta"
)

// Run runs the suite. open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) meta.Store) {
	for name, test := range map[string]func(*testing.T, meta.Store){
		"create and get":        testCreate,
		"replace":               testReplace,
		"delete":                testDelete,
		"deleted and new again": testABA,
		"check":                 testCheck,
		"all or nothing":        testAtomic,
		"query":                 testQuery,
		"invalid":               testInvalid,
		"one winner":            testRace,
		"counter":               testCounter,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func key(sk string) meta.Key { return meta.Key{PK: "pk", SK: sk} }

func commit(t *testing.T, s meta.Store, ops ...meta.Op) {
	t.Helper()
	if err := s.Commit(t.Context(), meta.NewCommitID(), ops...); err != nil {
		t.Fatal(err)
	}
}

func conflict(t *testing.T, s meta.Store, ops ...meta.Op) {
	t.Helper()
	if err := s.Commit(t.Context(), meta.NewCommitID(), ops...); !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
}

func get(t *testing.T, s meta.Store, sk string) meta.Item {
	t.Helper()
	item, err := s.Get(t.Context(), key(sk))
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func testCreate(t *testing.T, s meta.Store) {
	if _, err := s.Get(t.Context(), key("a")); !errors.Is(err, meta.ErrNotFound) {
		t.Fatalf("empty store: %v", err)
	}
	attrs := meta.Attrs{"s": "text", "colon": ":i:7", "empty": "", "i": int64(-1 << 62), "b": []byte{0, 255}, "t": true, "f": false}
	commit(t, s, meta.Create(key("a"), attrs))
	item := get(t, s, "a")
	if diff := cmp.Diff(attrs, item.Attrs); diff != "" || item.Version != 1 || item.Key != key("a") || item.CommitID == "" {
		t.Fatalf("version %d, key %v, id %q\n%s", item.Version, item.Key, item.CommitID, diff)
	}
	conflict(t, s, meta.Create(key("a"), nil))
}

func testReplace(t *testing.T, s meta.Store) {
	commit(t, s, meta.Create(key("a"), meta.Attrs{"n": int64(1)}))
	old := get(t, s, "a")
	commit(t, s, meta.Replace(old, meta.Attrs{"m": int64(2)}))
	now := get(t, s, "a")
	if diff := cmp.Diff(meta.Attrs{"m": int64(2)}, now.Attrs); diff != "" || now.Version != 2 || now.CommitID == old.CommitID {
		t.Fatalf("version %d\n%s", now.Version, diff)
	}
	conflict(t, s, meta.Replace(old, nil))
}

func testDelete(t *testing.T, s meta.Store) {
	commit(t, s, meta.Create(key("a"), nil))
	old := get(t, s, "a")
	commit(t, s, meta.Delete(old))
	conflict(t, s, meta.Delete(old))
	if _, err := s.Get(t.Context(), key("a")); !errors.Is(err, meta.ErrNotFound) {
		t.Fatal(err)
	}
}

func testABA(t *testing.T, s meta.Store) {
	commit(t, s, meta.Create(key("a"), meta.Attrs{"n": int64(1)}))
	first := get(t, s, "a")
	commit(t, s, meta.Delete(first))
	commit(t, s, meta.Create(key("a"), meta.Attrs{"n": int64(1)}))
	conflict(t, s, meta.Replace(first, nil))
	conflict(t, s, meta.Check(first), meta.Create(key("b"), nil))
}

func testCheck(t *testing.T, s meta.Store) {
	absent := meta.Item{Key: key("a")}
	commit(t, s, meta.Check(absent), meta.Create(key("b"), nil))
	commit(t, s, meta.Create(key("a"), nil))
	conflict(t, s, meta.Check(absent), meta.Create(key("c"), nil))
	a := get(t, s, "a")
	commit(t, s, meta.Check(a), meta.Create(key("c"), nil))
	if again := get(t, s, "a"); again.Version != 1 || again.CommitID != a.CommitID {
		t.Fatal("a check changed the item")
	}
	commit(t, s, meta.Replace(a, nil))
	conflict(t, s, meta.Check(a), meta.Create(key("d"), nil))
}

func testAtomic(t *testing.T, s meta.Store) {
	commit(t, s, meta.Create(key("a"), nil))
	conflict(t, s, meta.Create(key("x"), nil), meta.Create(key("a"), nil), meta.Create(key("y"), nil))
	for _, sk := range []string{"x", "y"} {
		if _, err := s.Get(t.Context(), key(sk)); !errors.Is(err, meta.ErrNotFound) {
			t.Fatalf("%s of a refused commit: %v", sk, err)
		}
	}
	var ops []meta.Op
	for i := range meta.MaxOps {
		ops = append(ops, meta.Create(key(fmt.Sprint("n", i)), nil))
	}
	commit(t, s, ops...)
}

func testQuery(t *testing.T, s meta.Store) {
	for i := range 25 {
		commit(t, s, meta.Create(key(fmt.Sprintf("p/%02d", i)), nil), meta.Create(meta.Key{PK: "other", SK: fmt.Sprintf("p/%02d", i)}, nil))
	}
	commit(t, s, meta.Create(key("o"), nil), meta.Create(key("p"), nil), meta.Create(key("p0"), nil), meta.Create(key("q"), nil))
	for _, reverse := range []bool{false, true} {
		var got []string
		for after, more := "", true; more; {
			var page []meta.Item
			var err error
			if page, more, err = s.Query(t.Context(), "pk", meta.Range{Prefix: "p/", After: after, Limit: 10, Reverse: reverse}); err != nil {
				t.Fatal(err)
			}
			for _, it := range page {
				got = append(got, it.SK)
				after = it.SK
			}
			if more && len(page) == 0 {
				t.Fatal("an empty page and more")
			}
		}
		if reverse {
			slices.Reverse(got)
		}
		if len(got) != 25 || !slices.IsSorted(got) {
			t.Fatalf("reverse %v: %v", reverse, got)
		}
	}
	all, more, err := s.Query(t.Context(), "pk", meta.Range{})
	if err != nil || more || len(all) != 29 {
		t.Fatalf("%d items, more %v, %v", len(all), more, err)
	}
}

func testInvalid(t *testing.T, s meta.Store) {
	id := meta.NewCommitID()
	many := make([]meta.Op, meta.MaxOps+1)
	for i := range many {
		many[i] = meta.Create(key(fmt.Sprint(i)), nil)
	}
	for name, ops := range map[string][]meta.Op{
		"no operation":  {},
		"too many":      many,
		"one key twice": {meta.Create(key("a"), nil), meta.Check(meta.Item{Key: key("a")})},
		"empty key":     {meta.Create(meta.Key{PK: "pk"}, nil)},
		"large item":    {meta.Create(key("a"), meta.Attrs{"b": make([]byte, meta.MaxItemBytes)})},
		"other type":    {meta.Create(key("a"), meta.Attrs{"f": 1.5})},
	} {
		if err := s.Commit(t.Context(), id, ops...); !errors.Is(err, meta.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// testRace has many create one key at once: one wins, and its item is there.
func testRace(t *testing.T, s meta.Store) {
	var winners atomic.Int64
	var won atomic.Value
	each(t, 50, func(ctx context.Context, _ int) error {
		id := meta.NewCommitID()
		err := untilNotBusy(func() error { return s.Commit(ctx, id, meta.Create(key("one"), nil)) })
		if err == nil {
			winners.Add(1)
			won.Store(id)
			return nil
		}
		if errors.Is(err, meta.ErrConflict) {
			return nil
		}
		return err
	})
	if winners.Load() != 1 {
		t.Fatalf("%d winners", winners.Load())
	}
	if it := get(t, s, "one"); it.CommitID != won.Load() {
		t.Fatalf("the item is of %s, the winner was %s", it.CommitID, won.Load())
	}
}

// testCounter has many add to two counters in one commit each: none is lost.
func testCounter(t *testing.T, s meta.Store) {
	commit(t, s, meta.Create(key("a"), meta.Attrs{"n": int64(0)}), meta.Create(key("b"), meta.Attrs{"n": int64(0)}))
	const workers, times = 8, 10
	each(t, workers, func(ctx context.Context, _ int) error {
		for done := 0; done < times; {
			a, err := s.Get(ctx, key("a"))
			if err != nil {
				return err
			}
			b, err := s.Get(ctx, key("b"))
			if err != nil {
				return err
			}
			err = s.Commit(ctx, meta.NewCommitID(), meta.Replace(a, meta.Attrs{"n": a.Attrs["n"].(int64) + 1}), meta.Replace(b, meta.Attrs{"n": b.Attrs["n"].(int64) + 1}))
			switch {
			case err == nil:
				done++
			case !errors.Is(err, meta.ErrConflict) && !errors.Is(err, meta.ErrBusy):
				return err
			}
		}
		return nil
	})
	for _, sk := range []string{"a", "b"} {
		if n := get(t, s, sk).Attrs["n"]; n != int64(workers*times) {
			t.Errorf("%s is %v, want %d", sk, n, workers*times)
		}
	}
}

func untilNotBusy(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, meta.ErrBusy) {
			return err
		}
	}
}

func each(t *testing.T, n int, fn func(ctx context.Context, i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := fn(t.Context(), i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
