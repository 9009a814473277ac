package meta_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

func hedged(t *testing.T, s meta.Store) meta.Store {
	t.Helper()
	h, err := meta.Hedged(s, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHedged(t *testing.T) {
	key, other := meta.Key{PK: "pk", SK: "sk"}, meta.Key{PK: "pk", SK: "other"}
	attrs := meta.Attrs{"n": int64(1)}
	replace := func(now meta.Item) []meta.Op { return []meta.Op{meta.Replace(now, attrs)} }
	stuck := memmeta.Fault{Before: 30 * time.Second}
	for _, tt := range []struct {
		name   string
		ops    func(now meta.Item) []meta.Op // nil: a Get
		faults []memmeta.Fault               // of one call after the other
		err    error                         // nil: it succeeds; errUnknown: none of the port's
		calls  int32
		quick  bool
	}{
		{"a read is stuck", nil, []memmeta.Fault{stuck, {}}, nil, 2, true},
		{"a Replace is stuck", replace, []memmeta.Fault{stuck, {}}, nil, 2, true},
		{"a Delete is stuck", func(now meta.Item) []meta.Op { return []meta.Op{meta.Delete(now)} }, []memmeta.Fault{stuck, {}}, nil, 2, true},
		{"a Create is stuck", func(meta.Item) []meta.Op { return []meta.Op{meta.Create(other, attrs)} }, []memmeta.Fault{stuck, {}}, nil, 1, false},
		{"two items are stuck", func(now meta.Item) []meta.Op { return []meta.Op{meta.Replace(now, attrs), meta.Create(other, attrs)} }, []memmeta.Fault{stuck, {}}, nil, 1, false},
		{"applied, the answer is stuck", replace, []memmeta.Fault{{After: 30 * time.Second}, {}}, errUnknown, 2, true},
		{"unknown, then busy", replace, []memmeta.Fault{{Fail: true, Apply: true, After: time.Second}, {Busy: true, After: 2 * time.Second}}, errUnknown, 2, false},
		{"a lost race", func(meta.Item) []meta.Op { return replace(meta.Item{Key: key, Version: 7, CommitID: "x"}) }, nil, meta.ErrConflict, 1, true},
		{"busy", replace, []memmeta.Fault{{Busy: true}}, meta.ErrBusy, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memmeta.New()
				s := hedged(t, store)
				var calls atomic.Int32
				var faults []memmeta.Fault
				usual := 10 * time.Millisecond
				store.Hook = func(string, []meta.Op) memmeta.Fault {
					n := int(calls.Add(1)) - 1
					if n < len(faults) {
						return faults[n]
					}
					return memmeta.Fault{After: usual}
				}
				if err := s.Commit(t.Context(), meta.NewCommitID(), meta.Create(key, attrs)); err != nil {
					t.Fatal(err)
				}
				var now meta.Item
				for n := range 100 { // until it is known what takes long
					if n == 30 {
						usual /= 2
					}
					var err error
					if now, err = s.Get(t.Context(), key); err != nil {
						t.Fatal(err)
					}
					if err := s.Commit(t.Context(), meta.NewCommitID(), meta.Replace(now, attrs)); err != nil {
						t.Fatal(err)
					}
				}
				now, err := s.Get(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				faults = tt.faults
				calls.Store(0)
				begin := time.Now()
				if tt.ops == nil {
					_, err = s.Get(t.Context(), key)
				} else {
					err = s.Commit(t.Context(), meta.NewCommitID(), tt.ops(now)...)
				}
				if tt.err == errUnknown {
					if err == nil || errors.Is(err, meta.ErrConflict) || errors.Is(err, meta.ErrBusy) {
						t.Errorf("%v, though another attempt may have been applied", err)
					}
				} else if !errors.Is(err, tt.err) {
					t.Errorf("%v, want %v", err, tt.err)
				}
				if n := calls.Load(); n != tt.calls {
					t.Errorf("%d calls, want %d", n, tt.calls)
				}
				if d := time.Since(begin); (d <= 50*time.Millisecond) != tt.quick {
					t.Errorf("it took %s", d)
				}
			})
		})
	}
}

var errUnknown = errors.New("unknown outcome")
