// Package metatest is the conformance kit of meta.Store: every adapter passes
// the same suite.
package metatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
		"query by bytes":        testQueryBytes,
		"query of pages":        testQueryPages,
		"same id again":         testRepeat,
		"largest":               testLargest,
		"invalid":               testInvalid,
		"one winner":            testRace,
		"counter":               testCounter,
		"overlapping":           testOverlap,
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

// testQueryBytes: sort keys are ordered by their bytes, prefixes and bounds too.
func testQueryBytes(t *testing.T, s meta.Store) {
	sorted := []string{"A", "a", "a\x00", "a\x00b", "aa", "a\x7f", "aé", "aÿ", "a\u07ff", "a\uffff", "a\U0010ffff", "b", "é"}
	for _, i := range []int{7, 0, 12, 3, 5, 10, 1, 8, 2, 11, 4, 9, 6} {
		commit(t, s, meta.Create(key(sorted[i]), nil))
	}
	query := func(r meta.Range) []string {
		t.Helper()
		items, more, err := s.Query(t.Context(), "pk", r)
		if err != nil || more {
			t.Fatalf("%+v: more %v, %v", r, more, err)
		}
		var sks []string
		for _, it := range items {
			sks = append(sks, it.SK)
		}
		return sks
	}
	reversed := slices.Clone(sorted[1:11])
	slices.Reverse(reversed)
	for _, c := range []struct {
		r    meta.Range
		want []string
	}{
		{meta.Range{}, sorted},
		{meta.Range{Prefix: "a"}, sorted[1:11]},
		{meta.Range{Prefix: "a", Reverse: true}, reversed},
		{meta.Range{Prefix: "a", After: "a"}, sorted[2:11]},
		{meta.Range{Prefix: "a", After: "A"}, sorted[1:11]},
		{meta.Range{Prefix: "a", After: "aÿ"}, sorted[8:11]},
		{meta.Range{Prefix: "a", After: "aÿ", Reverse: true}, reversed[4:]},
		{meta.Range{Prefix: "a", After: "b"}, nil},
		{meta.Range{Prefix: "a", After: "b", Reverse: true}, reversed},
		{meta.Range{Prefix: "a", After: "A", Reverse: true}, nil},
		{meta.Range{Prefix: "a\U0010ffff"}, sorted[10:11]},
		{meta.Range{After: "a\x00"}, sorted[3:]},
		{meta.Range{Prefix: "c"}, nil},
	} {
		if diff := cmp.Diff(c.want, query(c.r)); diff != "" {
			t.Errorf("%+v\n%s", c.r, diff)
		}
	}
}

// testQueryPages: without a limit the adapter may page as it likes, with one
// no page is longer, and a page that ends with the items may not promise more.
func testQueryPages(t *testing.T, s meta.Store) {
	const n = 1200
	var ops []meta.Op
	for i := range n {
		if ops = append(ops, meta.Create(key(fmt.Sprintf("%04d", i)), nil)); len(ops) == meta.MaxOps {
			commit(t, s, ops...)
			ops = nil
		}
	}
	for _, limit := range []int{0, 100, 500} {
		count := 0
		for r := (meta.Range{Limit: limit}); ; {
			page, more, err := s.Query(t.Context(), "pk", r)
			if err != nil || limit > 0 && len(page) > limit {
				t.Fatalf("%d items, limit %d, %v", len(page), limit, err)
			}
			if count += len(page); !more {
				break
			}
			r.After = page[len(page)-1].SK
		}
		if count != n {
			t.Errorf("limit %d: %d items", limit, count)
		}
	}
	if page, more, err := s.Query(t.Context(), "pk", meta.Range{After: fmt.Sprintf("%04d", n-11), Limit: 10}); err != nil || more || len(page) != 10 {
		t.Errorf("the last page: %d items, more %v, %v", len(page), more, err)
	}
}

// testRepeat: an applied commit that is sent again is not applied again.
func testRepeat(t *testing.T, s meta.Store) {
	id := meta.NewCommitID()
	if err := s.Commit(t.Context(), id, meta.Create(key("a"), nil)); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), id, meta.Create(key("a"), nil)); err == nil {
		t.Log("answered as applied") // as DynamoDB does with a client request token
	}
	if it := get(t, s, "a"); it.Version != 1 || it.CommitID != id {
		t.Fatalf("version %d, id %s", it.Version, it.CommitID)
	}
}

func testLargest(t *testing.T, s meta.Store) {
	b := bytes.Repeat([]byte{0xa5}, meta.MaxItemBytes-1024)
	var ops []meta.Op
	for i := range meta.MaxTxnBytes / meta.MaxItemBytes {
		ops = append(ops, meta.Create(key(fmt.Sprint(i)), meta.Attrs{"b": b}))
	}
	commit(t, s, ops...)
	if got := get(t, s, "3").Attrs["b"]; !cmp.Equal(got, b) {
		t.Fatal("a large item comes back changed")
	}
	long := meta.Key{PK: strings.Repeat("p", meta.MaxPKBytes), SK: strings.Repeat("s", meta.MaxSKBytes)}
	commit(t, s, meta.Create(long, nil))
	if _, err := s.Get(t.Context(), long); err != nil {
		t.Fatal(err)
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
		"long pk":       {meta.Create(meta.Key{PK: strings.Repeat("p", meta.MaxPKBytes+1), SK: "s"}, nil)},
		"long sk":       {meta.Create(key(strings.Repeat("s", meta.MaxSKBytes+1)), nil)},
		"key not UTF-8": {meta.Create(key("\xff"), nil)},
		"not UTF-8":     {meta.Create(key("a"), meta.Attrs{"s": "\xff"})},
		"no kind":       {{Key: key("a")}},
		"no old item":   {meta.Replace(meta.Item{Key: key("a")}, nil)},
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

// testOverlap has many move one unit between two of five accounts at a time,
// with a check of a third: what lies in them together never changes.
func testOverlap(t *testing.T, s meta.Store) {
	const accounts, workers, times = 5, 6, 10
	sk := func(i int) string { return fmt.Sprint("account", i%accounts) }
	for i := range accounts {
		commit(t, s, meta.Create(key(sk(i)), meta.Attrs{"n": int64(100)}))
	}
	add := func(it meta.Item, n int64) meta.Op {
		return meta.Replace(it, meta.Attrs{"n": it.Attrs["n"].(int64) + n})
	}
	each(t, workers, func(ctx context.Context, w int) error {
		for done := 0; done < times; {
			var items [3]meta.Item
			for i := range items {
				var err error
				if items[i], err = s.Get(ctx, key(sk(w+done+i))); err != nil {
					return err
				}
			}
			err := s.Commit(ctx, meta.NewCommitID(), add(items[2], -1), meta.Check(items[1]), add(items[0], 1))
			switch {
			case err == nil:
				done++
			case !errors.Is(err, meta.ErrConflict) && !errors.Is(err, meta.ErrBusy):
				return err
			}
		}
		return nil
	})
	var total, versions int64
	for i := range accounts {
		it := get(t, s, sk(i))
		total, versions = total+it.Attrs["n"].(int64), versions+it.Version
	}
	if total != 100*accounts || versions != accounts+2*workers*times {
		t.Fatalf("%d units in all, versions %d", total, versions)
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
