package metatest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/varvelog/varve/internal/meta"
)

// Faults make the next commit of a store go wrong. The tests commit nothing
// else meanwhile.
type Faults struct {
	Lose     func()               // it is applied, and its answer is lost
	Delay    func() (land func()) // it fails without an answer, and arrives when land is called
	Throttle func()               // it is refused for its rate
	Conflict func()               // it is refused for another commit under way on its items
}

// RunFaults runs the suite of commits that go wrong. open returns an empty
// store that the faults are of.
func RunFaults(t *testing.T, open func(t *testing.T) (meta.Store, Faults)) {
	for name, test := range map[string]func(*testing.T, meta.Store, Faults, []string){
		"applied but unanswered":     testLost,
		"lands after a read":         testLands,
		"finds its condition false":  testLandsInVain,
		"throttled":                  func(t *testing.T, s meta.Store, f Faults, sks []string) { testBusy(t, s, f.Throttle, sks) },
		"conflicting transaction":    func(t *testing.T, s meta.Store, f Faults, sks []string) { testBusy(t, s, f.Conflict, sks) },
		"unanswered, then throttled": testLostThrottled,
	} {
		for size, sks := range map[string][]string{"one item": {"a"}, "two items": {"a", "b"}} {
			t.Run(name+"/"+size, func(t *testing.T) {
				s, f := open(t)
				test(t, s, f, sks)
			})
		}
	}
}

// puts returns the operations that write n into all items as they are now.
func puts(t *testing.T, s meta.Store, sks []string, n int64) []meta.Op {
	t.Helper()
	var ops []meta.Op
	for _, sk := range sks {
		item, err := s.Get(t.Context(), key(sk))
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			t.Fatal(err)
		}
		item.Key = key(sk)
		ops = append(ops, meta.Put(item, meta.Attrs{"n": n}))
	}
	return ops
}

func want(t *testing.T, s meta.Store, sks []string, n, version int64, id string) {
	t.Helper()
	for _, sk := range sks {
		if it := get(t, s, sk); it.Attrs["n"] != n || it.Version != version || id != "" && it.CommitID != id {
			t.Fatalf("%s: %v, version %d of commit %s; want %d, version %d of %s", sk, it.Attrs, it.Version, it.CommitID, n, version, id)
		}
	}
}

func unknown(t *testing.T, err error) {
	t.Helper()
	known := []error{nil, meta.ErrConflict, meta.ErrBusy, meta.ErrInvalid}
	if slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
		t.Fatalf("%v, want an unknown outcome", err)
	}
}

// repeated fails the test unless a repeat of an applied commit says that it
// was applied or refused.
func repeated(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("repeat: %v", err)
	}
}

func testLost(t *testing.T, s meta.Store, f Faults, sks []string) {
	id, ops := meta.NewCommitID(), puts(t, s, sks, 1)
	f.Lose()
	unknown(t, s.Commit(t.Context(), id, ops...))
	want(t, s, sks, 1, 1, id)
	repeated(t, s.Commit(t.Context(), id, ops...))
	want(t, s, sks, 1, 1, id)
	commit(t, s, puts(t, s, sks, 2)...)
	repeated(t, s.Commit(t.Context(), id, ops...))
	want(t, s, sks, 2, 2, "")
}

func testLands(t *testing.T, s meta.Store, f Faults, sks []string) {
	commit(t, s, puts(t, s, sks, 1)...)
	id, ops := meta.NewCommitID(), puts(t, s, sks, 2)
	land := f.Delay()
	unknown(t, s.Commit(t.Context(), id, ops...))
	want(t, s, sks, 1, 1, "")
	land()
	want(t, s, sks, 2, 2, id)
	repeated(t, s.Commit(t.Context(), id, ops...))
	want(t, s, sks, 2, 2, id)
}

// testLandsInVain: one's own later write settles a commit of unknown outcome.
func testLandsInVain(t *testing.T, s meta.Store, f Faults, sks []string) {
	commit(t, s, puts(t, s, sks, 1)...)
	land := f.Delay()
	unknown(t, s.Commit(t.Context(), meta.NewCommitID(), puts(t, s, sks, 2)...))
	id := meta.NewCommitID()
	if err := s.Commit(t.Context(), id, puts(t, s, sks, 3)...); err != nil {
		t.Fatal(err)
	}
	land()
	want(t, s, sks, 3, 2, id)
}

func testBusy(t *testing.T, s meta.Store, fault func(), sks []string) {
	commit(t, s, puts(t, s, sks, 1)...)
	id, ops := meta.NewCommitID(), puts(t, s, sks, 2)
	fault()
	if err := s.Commit(t.Context(), id, ops...); !errors.Is(err, meta.ErrBusy) {
		t.Fatalf("%v, want ErrBusy", err)
	}
	want(t, s, sks, 1, 1, "")
	if err := s.Commit(t.Context(), id, ops...); err != nil {
		t.Fatalf("repeat: %v", err)
	}
	want(t, s, sks, 2, 2, id)
}

func testLostThrottled(t *testing.T, s meta.Store, f Faults, sks []string) {
	id, ops := meta.NewCommitID(), puts(t, s, sks, 1)
	f.Lose()
	unknown(t, s.Commit(t.Context(), id, ops...))
	f.Throttle()
	if err := s.Commit(t.Context(), id, ops...); !errors.Is(err, meta.ErrBusy) {
		t.Fatalf("%v, want ErrBusy", err)
	}
	want(t, s, sks, 1, 1, id)
}

var errFault = errors.New("metatest: no answer")

// faulty passes calls on to a store, save for a commit that has a fault.
type faulty struct {
	meta.Store

	mu   sync.Mutex
	next func(commit func() error) error // of the next commit; nil: none
}

func (f *faulty) set(next func(commit func() error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = next
}

// Commit implements meta.Store.
func (f *faulty) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	f.mu.Lock()
	next := f.next
	f.next = nil
	f.mu.Unlock()
	commit := func() error { return f.Store.Commit(ctx, id, ops...) }
	if next != nil {
		return next(commit)
	}
	return commit()
}

// WithFaults returns a store that passes calls on to s, and its faults: for
// stores that have no network before them.
func WithFaults(s meta.Store) (meta.Store, Faults) {
	f := &faulty{Store: s}
	busy := func() { f.set(func(func() error) error { return meta.ErrBusy }) }
	return f, Faults{
		Lose: func() {
			f.set(func(commit func() error) error {
				_ = commit() // the answer is lost
				return errFault
			})
		},
		Delay: func() func() {
			var late func() error
			f.set(func(commit func() error) error { late = commit; return errFault })
			return func() { _ = late() } // it may find its condition false
		},
		Throttle: busy,
		Conflict: busy,
	}
}
