// Package objtest is the conformance kit of objstore.Store: every store passes
// the same suite.
package objtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/tiering/objstore"
)

// Run runs the suite. open returns an empty store, for each test its own.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, s objstore.Store)
	}{
		{"put and read", testPut},
		{"ranges", testRanges},
		{"create only", testCreateOnly},
		{"one winner", testOneWinner},
		{"list", testList},
		{"list pages", testListPages},
		{"list while writing", testListWhileWriting},
		{"delete", testDelete},
		{"keys", testKeys},
		{"failed body", testFailedBody},
		{"cancelled", testCancelled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t)) })
	}
}

func put(t *testing.T, s objstore.Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, objstore.Buffers{[]byte(content)}); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

// content reads a whole object.
func content(t *testing.T, s objstore.Store, key string) string {
	t.Helper()
	_, size, err := s.ReadAt(t.Context(), key, nil, 0)
	if err != nil {
		t.Fatalf("ReadAt(%q) for the size: %v", key, err)
	}
	p := make([]byte, size)
	n, _, err := s.ReadAt(t.Context(), key, p, 0)
	if err != nil || n != len(p) {
		t.Fatalf("ReadAt(%q): %d of %d bytes, %v", key, n, size, err)
	}
	return string(p)
}

// pieces is a Body that is not Buffers.
type pieces []string

func (b pieces) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for _, p := range b {
		n, err := io.WriteString(w, p)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func testPut(t *testing.T, s objstore.Store) {
	var many objstore.Buffers
	for i := range 2500 { // more than one writev takes
		many = append(many, fmt.Appendf(nil, "piece %d;", i), nil)
	}
	var joined bytes.Buffer
	if _, err := many.WriteTo(&joined); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	bodies := map[string]struct {
		body objstore.Body
		want string
	}{
		"empty":      {objstore.Buffers{}, ""},
		"none/piece": {objstore.Buffers{nil, {}}, ""},
		"a/b/c/one":  {objstore.Buffers{[]byte("one")}, "one"},
		"a/b/many":   {many, joined.String()},
		"large":      {objstore.Buffers{large[:1000], large[1000:]}, string(large)},
		"writer":     {pieces{"x", "", strings.Repeat("y", 100_000), "z"}, "x" + strings.Repeat("y", 100_000) + "z"},
	}
	for key, b := range bodies {
		if err := s.Put(t.Context(), key, b.body); err != nil {
			t.Fatalf("Put(%q): %v", key, err)
		}
		if got := content(t, s, key); got != b.want {
			t.Errorf("%q has %d bytes, want %d, or other ones", key, len(got), len(b.want))
		}
	}
	if _, _, err := s.ReadAt(t.Context(), "a/none", make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt of no object: %v", err)
	}
	if _, _, err := s.ReadAt(t.Context(), "no/where", make([]byte, 1), -1); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt of no object in no folder: %v", err)
	}
	if _, _, err := s.ReadAt(t.Context(), "a/b", make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt of a folder: %v", err)
	}
	if _, _, err := s.ReadAt(t.Context(), "large/x", make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt below an object: %v", err)
	}
}

func testRanges(t *testing.T, s objstore.Store) {
	put(t, s, "o", "0123456789")
	put(t, s, "empty", "")
	tests := []struct {
		key  string
		n    int
		off  int64
		want string
		eof  bool
	}{
		{"o", 10, 0, "0123456789", false},
		{"o", 3, 4, "456", false},
		{"o", 11, 0, "0123456789", true},
		{"o", 5, 8, "89", true},
		{"o", 1, 9, "9", false},
		{"o", 1, 10, "", true},
		{"o", 1, 1 << 40, "", true},
		{"o", 0, 0, "", false},
		{"o", 0, 10, "", false},
		{"o", 4, -4, "6789", false},
		{"o", 2, -4, "67", false},
		{"o", 10, -10, "0123456789", false},
		{"o", 64, -64, "0123456789", false},
		{"o", 4, -64, "0123", false},
		{"empty", 4, 0, "", true},
		{"empty", 4, -4, "", false},
		{"empty", 0, 0, "", false},
	}
	for _, tt := range tests {
		p := make([]byte, tt.n)
		n, size, err := s.ReadAt(t.Context(), tt.key, p, tt.off)
		wantSize := int64(10)
		if tt.key == "empty" {
			wantSize = 0
		}
		if err != nil && err != io.EOF || (err == io.EOF) != tt.eof || string(p[:n]) != tt.want || size != wantSize {
			t.Errorf("ReadAt(%s, %d bytes, at %d): %q, size %d, %v; want %q, eof %v",
				tt.key, tt.n, tt.off, p[:n], size, err, tt.want, tt.eof)
		}
	}
}

func testCreateOnly(t *testing.T, s objstore.Store) {
	put(t, s, "k/1", "first")
	for _, again := range []string{"first", "second", ""} {
		if err := s.Put(t.Context(), "k/1", objstore.Buffers{[]byte(again)}); !errors.Is(err, objstore.ErrExists) {
			t.Errorf("Put of a taken key: %v, want ErrExists", err)
		}
	}
	if got := content(t, s, "k/1"); got != "first" {
		t.Errorf("content %q after refused puts", got)
	}
}

func testOneWinner(t *testing.T, s objstore.Store) {
	for round := range 5 {
		key := fmt.Sprintf("race/%d/new/key", round)
		errs := make([]error, 50)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				body := objstore.Buffers{fmt.Appendf(nil, "writer %d", i), make([]byte, i)}
				errs[i] = s.Put(t.Context(), key, body)
				if errs[i] != nil { // whoever lost must find a whole object
					p := make([]byte, 7)
					if n, _, err := s.ReadAt(t.Context(), key, p, 0); err != nil || string(p[:n]) != "writer " {
						t.Errorf("object after ErrExists: %q, %v", p[:n], err)
					}
				}
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("writers %d and %d both won", winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, objstore.ErrExists):
				t.Errorf("writer %d: %v", i, err)
			}
		}
		if winner < 0 {
			t.Fatal("nobody won")
		}
		if got, want := content(t, s, key), fmt.Sprintf("writer %d", winner)+string(make([]byte, winner)); got != want {
			t.Errorf("content %q, want %q", got, want)
		}
	}
}

// unordered are keys whose order by bytes differs from that of a walk by
// folders or by case.
var unordered = []string{
	"a/b", "a-b", "a.b", "a0", "a=b", "a_b", "aB", "ab", "A/b", "a/b-/x", "a/b.x", "a/b0", "a/B",
	"b/c/d/e", "b/c/d-e", "b/c.d/e", "b/c/d/-", "b/c/d/.x", "b/.c/d", ".b/c", "-", "0/1/2", "0/1-2",
}

func list(t *testing.T, s objstore.Store, prefix, after string, limit int) []string {
	t.Helper()
	infos, err := s.List(t.Context(), prefix, after, limit)
	if err != nil {
		t.Fatalf("List(%q, %q, %d): %v", prefix, after, limit, err)
	}
	var keys []string
	for _, in := range infos {
		keys = append(keys, in.Key)
		if in.Size != int64(len(in.Key)) { // each test object's content is its key
			t.Errorf("List says that %q has %d bytes", in.Key, in.Size)
		}
	}
	return keys
}

// reference is List over a slice of keys.
func reference(keys []string, prefix, after string, limit int) []string {
	var got []string
	for _, k := range slices.Sorted(slices.Values(keys)) {
		if strings.HasPrefix(k, prefix) && k > after && len(got) < limit {
			got = append(got, k)
		}
	}
	return got
}

func testList(t *testing.T, s objstore.Store) {
	if got := list(t, s, "", "", 0); len(got) != 0 {
		t.Errorf("List of nothing: %q", got)
	}
	for _, k := range unordered {
		put(t, s, k, k)
	}
	marks := append([]string{"", "a", "a/", "a/b", "b/c", "b/c/", "b/c/d", "zzz", "no/such", "b/c/d/~", "../", "~"}, unordered...)
	for _, prefix := range marks {
		for _, after := range marks {
			for _, limit := range []int{1, 3, 1000} {
				want := reference(unordered, prefix, after, limit)
				if diff := cmp.Diff(want, list(t, s, prefix, after, limit)); diff != "" {
					t.Fatalf("List(%q, %q, %d) (-want +got):\n%s", prefix, after, limit, diff)
				}
			}
		}
	}
}

func testListPages(t *testing.T, s objstore.Store) {
	var keys []string
	for i := range 1203 {
		keys = append(keys, fmt.Sprintf("p/%d/%04d", i%3, i))
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := g; i < len(keys); i += 8 {
				if err := s.Put(t.Context(), keys[i], pieces{keys[i]}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(list(t, s, "p/", "", 0)); got != objstore.MaxList {
		t.Errorf("List without a limit returned %d objects", got)
	}
	for _, limit := range []int{100, 5 * objstore.MaxList} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page := list(t, s, "p/", after, limit)
			got = append(got, page...)
			if len(page) < min(limit, objstore.MaxList) {
				break
			}
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(keys)), got); diff != "" {
			t.Errorf("all pages of %d (-want +got):\n%s", limit, diff)
		}
	}
}

// testListWhileWriting: what was there before a List began is in it.
func testListWhileWriting(t *testing.T, s objstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			k := fmt.Sprintf("w/x%05d", i)
			if s.Put(t.Context(), k, pieces{k}) != nil || s.Delete(t.Context(), k) != nil {
				t.Error("put or delete failed")
			}
		}
	})
	for i := range 100 {
		k := fmt.Sprintf("w/%05d", i)
		put(t, s, k, k)
		if got := len(list(t, s, "w/0", "", 0)); got != i+1 {
			t.Errorf("List has %d objects of %d", got, i+1)
		}
	}
	cancel()
	wg.Wait()
}

func testDelete(t *testing.T, s objstore.Store) {
	var many []string
	for i := range objstore.MaxDeleteKeys {
		many = append(many, fmt.Sprintf("d/%d", i))
	}
	put(t, s, many[0], "0")
	put(t, s, many[500], "500")
	put(t, s, "d/stays", "d/stays")
	content(t, s, many[0])
	for range 2 {
		if err := s.Delete(t.Context(), many...); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if err := s.Delete(t.Context()); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	if err := s.Delete(t.Context(), append(many, "one-more")...); err == nil {
		t.Error("Delete of more than MaxDeleteKeys succeeded")
	}
	if _, _, err := s.ReadAt(t.Context(), many[0], make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt of a deleted object: %v", err)
	}
	if diff := cmp.Diff([]string{"d/stays"}, list(t, s, "", "", 0)); diff != "" {
		t.Errorf("List after Delete (-want +got):\n%s", diff)
	}
	put(t, s, many[0], "again")
	if got := content(t, s, many[0]); got != "again" {
		t.Errorf("content %q", got)
	}
}

func testKeys(t *testing.T, s objstore.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a b", "a\x00", "ä", "a\\b", "a:b", "~tmp/x",
		strings.Repeat("a", 256), strings.Repeat("a/", 450) + "a",
	} {
		if err := s.Put(t.Context(), key, pieces{"x"}); !errors.Is(err, objstore.ErrInvalidKey) {
			t.Errorf("Put(%q): %v", key, err)
		}
		if _, _, err := s.ReadAt(t.Context(), key, make([]byte, 1), 0); !errors.Is(err, objstore.ErrInvalidKey) {
			t.Errorf("ReadAt(%q): %v", key, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, objstore.ErrInvalidKey) {
			t.Errorf("Delete(%q): %v", key, err)
		}
	}
	for _, key := range []string{
		"a", "...", "..a", ".tmp-1/.tmp-2", "A=1/_-.z", strings.Repeat("b", 255), strings.Repeat("c/", 449) + "cc",
	} {
		put(t, s, key, key)
		if got := content(t, s, key); got != key {
			t.Errorf("content of %q: %q", key, got)
		}
	}
	if got := len(list(t, s, "", "", 0)); got != 7 {
		t.Errorf("List has %d objects of 7", got)
	}
}

type failingBody struct{}

var errBody = errors.New("no more bytes")

func (failingBody) WriteTo(w io.Writer) (int64, error) {
	n, _ := io.WriteString(w, "half")
	return int64(n), errBody
}

func testFailedBody(t *testing.T, s objstore.Store) {
	if err := s.Put(t.Context(), "f/1", failingBody{}); !errors.Is(err, errBody) {
		t.Errorf("Put of a failing body: %v", err)
	}
	if _, _, err := s.ReadAt(t.Context(), "f/1", make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("ReadAt after a failed body: %v", err)
	}
	if got := list(t, s, "", "", 0); len(got) != 0 {
		t.Errorf("List after a failed body: %q", got)
	}
	put(t, s, "f/1", "whole")
}

func testCancelled(t *testing.T, s objstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "c", pieces{"x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, _, err := s.ReadAt(ctx, "c", make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadAt: %v", err)
	}
	if _, err := s.List(ctx, "", "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	if err := s.Delete(ctx, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: %v", err)
	}
}
