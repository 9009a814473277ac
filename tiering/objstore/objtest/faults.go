package objtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/varvelog/varve/tiering/objstore"
)

// Faults make the next Put or Delete of a store go wrong, however often the
// store tries it. The tests call nothing else of the kind meanwhile.
type Faults struct {
	Lose  func()               // it is applied, and its answer is lost
	Delay func() (land func()) // it fails without an answer, and arrives when land is called
}

// RunFaults runs the suite of calls that go wrong. open returns an empty store
// that the faults are of.
func RunFaults(t *testing.T, open func(t *testing.T) (objstore.Store, Faults)) {
	for name, test := range map[string]func(*testing.T, objstore.Store, Faults){
		"put applied but unanswered":    testLost,
		"put refused and unanswered":    testLostRefusal,
		"put lands after a read":        testLands,
		"put lands on a taken key":      testLandsInVain,
		"delete applied but unanswered": testLostDelete,
		"delete lands later":            testLateDelete,
	} {
		t.Run(name, func(t *testing.T) {
			s, f := open(t)
			test(t, s, f)
		})
	}
}

func body(s string) objstore.Body { return objstore.Buffers{[]byte(s)} }

func unknown(t *testing.T, err error) {
	t.Helper()
	known := []error{nil, objstore.ErrExists, objstore.ErrInvalidKey}
	if slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
		t.Fatalf("%v, want an unknown outcome", err)
	}
}

func notThere(t *testing.T, s objstore.Store, key string) {
	t.Helper()
	if _, _, err := s.ReadAt(t.Context(), key, make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("ReadAt(%q): %v", key, err)
	}
	if got := list(t, s, key, "", 0); len(got) > 0 {
		t.Fatalf("List has %q", got)
	}
}

func testLost(t *testing.T, s objstore.Store, f Faults) {
	f.Lose()
	unknown(t, s.Put(t.Context(), "a/1", body("mine")))
	if got := content(t, s, "a/1"); got != "mine" {
		t.Fatalf("content %q", got)
	}
	if err := s.Put(t.Context(), "a/1", body("mine")); !errors.Is(err, objstore.ErrExists) {
		t.Fatalf("repeat: %v", err)
	}
}

func testLostRefusal(t *testing.T, s objstore.Store, f Faults) {
	put(t, s, "a/1", "theirs")
	f.Lose()
	unknown(t, s.Put(t.Context(), "a/1", body("mine")))
	if got := content(t, s, "a/1"); got != "theirs" {
		t.Fatalf("content %q", got)
	}
}

func testLands(t *testing.T, s objstore.Store, f Faults) {
	land := f.Delay()
	unknown(t, s.Put(t.Context(), "a/1", body("mine")))
	notThere(t, s, "a/1")
	land()
	if got := content(t, s, "a/1"); got != "mine" {
		t.Fatalf("content %q", got)
	}
}

// testLandsInVain: one's own later put settles a put of unknown outcome.
func testLandsInVain(t *testing.T, s objstore.Store, f Faults) {
	land := f.Delay()
	unknown(t, s.Put(t.Context(), "a/1", body("zombie")))
	put(t, s, "a/1", "seal")
	land()
	if got := content(t, s, "a/1"); got != "seal" {
		t.Fatalf("content %q", got)
	}
}

func testLostDelete(t *testing.T, s objstore.Store, f Faults) {
	put(t, s, "a/1", "x")
	f.Lose()
	unknown(t, s.Delete(t.Context(), "a/1"))
	notThere(t, s, "a/1")
	if err := s.Delete(t.Context(), "a/1"); err != nil {
		t.Fatalf("repeat: %v", err)
	}
}

func testLateDelete(t *testing.T, s objstore.Store, f Faults) {
	put(t, s, "a/1", "x")
	land := f.Delay()
	unknown(t, s.Delete(t.Context(), "a/1"))
	if got := content(t, s, "a/1"); got != "x" {
		t.Fatalf("content %q", got)
	}
	land()
	notThere(t, s, "a/1")
}

var errFault = errors.New("objtest: no answer")

// faulty passes calls on to a store, save for a Put or Delete that has a fault.
type faulty struct {
	objstore.Store

	mu   sync.Mutex
	next func(call func() error) error // of the next Put or Delete; nil: none
}

func (f *faulty) set(next func(call func() error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = next
}

func (f *faulty) do(call func() error) error {
	f.mu.Lock()
	next := f.next
	f.next = nil
	f.mu.Unlock()
	if next != nil {
		return next(call)
	}
	return call()
}

// Put implements objstore.Store.
func (f *faulty) Put(ctx context.Context, key string, body objstore.Body) error {
	return f.do(func() error { return f.Store.Put(ctx, key, body) })
}

// Delete implements objstore.Store.
func (f *faulty) Delete(ctx context.Context, keys ...string) error {
	return f.do(func() error { return f.Store.Delete(ctx, keys...) })
}

// WithFaults returns a store that passes calls on to s, and its faults: for
// stores that have no network before them.
func WithFaults(s objstore.Store) (objstore.Store, Faults) {
	f := &faulty{Store: s}
	return f, Faults{
		Lose: func() {
			f.set(func(call func() error) error {
				_ = call() // the answer is lost
				return errFault
			})
		},
		Delay: func() func() {
			var late func() error
			f.set(func(call func() error) error { late = call; return errFault })
			return func() { _ = late() } // it may find the key taken
		},
	}
}
