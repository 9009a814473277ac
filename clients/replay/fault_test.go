package replay_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// faulty changes what reads of records return, past the footers.
type faulty struct {
	objstore.Store
	read func(n int64, key string, p []byte) (int, error) // what becomes of the n-th such read
	n    atomic.Int64
}

func (f *faulty) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, int64, error) {
	n, size, err := f.Store.ReadAt(ctx, key, p, off)
	if off >= 0 && (err == nil || errors.Is(err, io.EOF)) {
		var ferr error
		if n, ferr = f.read(f.n.Add(1), key, p[:n]); ferr != nil {
			err = ferr
		}
	}
	return n, size, err
}

var errNetwork = errors.New("connection reset")

// TestFaultsOfReads reads through a store that fails, cuts short or flips bits,
// at first or for good.
func TestFaultsOfReads(t *testing.T) {
	faults := map[string]func(p []byte) (int, error){
		"fails":     func(p []byte) (int, error) { return 0, errNetwork },
		"short":     func(p []byte) (int, error) { return len(p) / 2, nil },
		"short EOF": func(p []byte) (int, error) { return len(p) - 1, io.EOF },
		"flips":     func(p []byte) (int, error) { p[len(p)/2] ^= 4; return len(p), nil },
	}
	wants := map[string]error{"fails": errNetwork, "short": io.ErrUnexpectedEOF, "short EOF": io.ErrUnexpectedEOF, "flips": bundle.ErrCorrupt}
	for name, fault := range faults {
		for _, where := range []string{"seg/", "ckpt/", "wal/"} {
			t.Run(name+" "+strings.Trim(where, "/"), func(t *testing.T) {
				t.Parallel()
				o := filled(t, 1)
				l := o.Named("a", 0)
				for _, often := range []int64{2, 1 << 40} {
					store := &faulty{Store: o.Store}
					var hit atomic.Int64
					store.read = func(_ int64, key string, p []byte) (int, error) {
						if strings.HasPrefix(key, where) && hit.Add(1) <= often {
							return fault(p)
						}
						return len(p), nil
					}
					src, err := replay.NewSource(o.Meta, store)
					if err != nil {
						t.Fatal(err)
					}
					r := open(t.Context(), t, src, replay.Options{Topic: "a"})
					var got []line
					for rec, rerr := range r.Records(t.Context()) {
						if err = rerr; err == nil {
							got = append(got, lineOf(rec))
						}
					}
					if often > 2 {
						if !errors.Is(err, wants[name]) {
							t.Errorf("for good: %v", err)
						}
						store.read = func(_ int64, _ string, p []byte) (int, error) { return len(p), nil }
						got = append(got, drain(t.Context(), t, r, 0)[0]...) // it goes on where it stopped
					} else if err != nil {
						t.Errorf("twice: %v", err)
					}
					compare(t, "records", got, want(t, l, 0, int64(l.End()), false))
				}
			})
		}
	}
}

// TestLost shows that an object that is missing and still named is told.
func TestLost(t *testing.T) {
	for _, where := range []string{"seg/", "ckpt/", "wal/"} {
		o := filled(t, 1)
		r := open(t.Context(), t, source(t, o), replay.Options{Topic: "a"})
		for _, key := range o.Store.Keys() {
			if strings.HasPrefix(key, where) {
				if err := o.Store.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
		var err error
		n := 0
		for _, rerr := range r.Records(t.Context()) {
			if err = rerr; err == nil {
				n++
			}
		}
		if !errors.Is(err, replay.ErrLost) {
			t.Errorf("%s: %d records, %v", where, n, err)
		}
	}
}

// TestRemovedMeanwhile lets retention be faster than a replay.
func TestRemovedMeanwhile(t *testing.T) {
	for _, exact := range []bool{false, true} {
		o := filled(t, 1)
		l := o.Named("a", 0)
		o.Seal(l)
		opts := replay.Options{Topic: "a"}
		if exact {
			opts.From = replay.Offset(0)
		}
		r := open(t.Context(), t, source(t, o), opts)
		o.Remove(l, 1)
		if exact {
			var err error
			for _, err = range r.Records(t.Context()) {
			}
			if !errors.Is(err, replay.ErrOutOfRange) {
				t.Errorf("by offset: %v", err)
			}
			continue
		}
		compare(t, "from the beginning", drain(t.Context(), t, r, 0)[0], want(t, l, int64(l.Start), int64(l.End()), false))
		if n := r.Progress().Removed; n != int64(l.Start) {
			t.Errorf("%d offsets removed, want %d", n, l.Start)
		}
	}
}

// TestListFails shows that an error of the object store's listing is told.
func TestListFails(t *testing.T) {
	o := filled(t, 1)
	src := source(t, o)
	o.Store.SetFault(func(op memstore.Op, _ string) memstore.Fault {
		if op == memstore.OpList {
			return memstore.Fault{Kind: memstore.Fail}
		}
		return memstore.Fault{}
	})
	if _, err := replay.Open(t.Context(), src, replay.Options{Topic: "a"}); !errors.Is(err, memstore.ErrInjected) {
		t.Errorf("open: %v", err)
	}
}

// TestReadsOnly shows that a replay writes nothing.
func TestReadsOnly(t *testing.T) {
	o := filled(t, 2)
	before := o.Store.Keys()
	o.Store.SetFault(func(op memstore.Op, _ string) memstore.Fault {
		if op == memstore.OpPut || op == memstore.OpDelete {
			t.Errorf("a replay calls %s", op)
		}
		return memstore.Fault{}
	})
	drain(t.Context(), t, open(t.Context(), t, source(t, o), replay.Options{Topic: "a", From: replay.Offset(2)}), 0)
	if after := o.Store.Keys(); !slices.Equal(after, before) {
		t.Errorf("objects before: %v\nafter: %v", before, after)
	}
}
