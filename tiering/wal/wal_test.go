package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

var (
	session = bundle.Origin{Broker: 1, Epoch: 3, Nonce: [16]byte{7}}
	other   = bundle.Origin{Broker: 2, Epoch: 9, Nonce: [16]byte{8}}
)

// log is a partition that appends one-record batches and notes what becomes durable.
type log struct {
	tp kafka.TopicPartition

	mu      sync.Mutex
	next    kafka.Offset
	durable kafka.Offset
	objects []string // keys, in order
	wrong   string
}

func newLog(partition int32) *log {
	return &log{tp: kafka.TopicPartition{Topic: kafka.TopicID{1}, Partition: partition}}
}

func (l *log) append(w *Writer, size int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := bundle.Batch{BaseOffset: l.next, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, ControlType: -1, CoordEpoch: -1}
	if err := w.Append(Entry{Target: l, Slot: kafka.Slot(l.tp.Partition), TP: l.tp, Batch: m, Data: batchBytes(m, size)}); err != nil {
		return err
	}
	l.next++
	return nil
}

func (l *log) Announce() {}

func (l *log) Durable(key string, s bundle.Slice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range s.Batches {
		if m.BaseOffset != l.durable || s.TP != l.tp {
			l.wrong = fmt.Sprintf("%s: offset %d of %s durable, want %d", key, m.BaseOffset, s.TP, l.durable)
		}
		l.durable = m.LastOffset() + 1
	}
	l.objects = append(l.objects, key)
}

func (l *log) state() (next, durable kafka.Offset, objects int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next, l.durable, len(l.objects)
}

func batchBytes(m bundle.Batch, size int) []byte {
	b := make([]byte, max(61, size))
	be := binary.BigEndian
	be.PutUint64(b, uint64(m.BaseOffset))
	be.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	be.PutUint64(b[43:], ^uint64(0))
	be.PutUint16(b[51:], ^uint16(0))
	be.PutUint32(b[53:], ^uint32(0))
	be.PutUint32(b[57:], 1)
	be.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// running starts a writer's Run, whose result comes out of the channel.
func running(ctx context.Context, o Options) (*Writer, <-chan error) {
	w := New(o)
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	return w, result
}

func TestWriteFlushCloseReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		filled := map[string][]objcache.Piece{}
		w, result := running(t.Context(), Options{Store: store, Origin: session,
			Fill: func(key string, p []objcache.Piece) { filled[key] = p }})
		a, b := newLog(1), newLog(2)
		for range 3 {
			for range 5 {
				if err := errors.Join(a.append(w, 100), b.append(w, 70)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, d, _ := a.state(); d != a.next {
				t.Fatalf("flushed up to %d of %d", d, a.next)
			}
		}
		at, err := w.Close(t.Context())
		if err != nil || <-result != nil {
			t.Fatal(err)
		}
		if err := a.append(w, 100); !errors.Is(err, ErrClosed) {
			t.Errorf("append after close: %v", err)
		}
		if p := w.Position(); p.Next != at || p.Durable != at || !w.OldestWaiting().IsZero() {
			t.Errorf("sealed at %d, position %+v", at, p)
		}
		got := map[kafka.TopicPartition]kafka.Offset{}
		seq := int64(0)
		err = Replay(t.Context(), store, Span{session, 0, at}, func(key string, o *bundle.Object) error {
			if o.Origin.Seq != seq {
				t.Errorf("object %d after %d", o.Origin.Seq, seq)
			}
			seq++
			pieces := filled[key]
			for _, s := range o.Slices {
				for _, m := range s.Batches {
					if m.BaseOffset != got[s.TP] {
						t.Errorf("%s: offset %d, want %d", s.TP, m.BaseOffset, got[s.TP])
					}
					got[s.TP]++
					if pieces[0].Off != m.Pos || len(pieces[0].Data) != int(m.Len) {
						t.Errorf("%s: piece at %d, batch at %d", key, pieces[0].Off, m.Pos)
					}
					pieces = pieces[1:]
				}
			}
			return nil
		})
		if want := (map[kafka.TopicPartition]kafka.Offset{a.tp: 15, b.tp: 15}); err != nil || !cmp.Equal(want, got) || a.wrong+b.wrong != "" {
			t.Errorf("replayed %v, %v; %s %s", got, err, a.wrong, b.wrong)
		}
		if err := Replay(t.Context(), store, Span{session, 0, at + 1}, func(string, *bundle.Object) error { return nil }); !errors.Is(err, ErrHole) {
			t.Errorf("replay over the seal: %v", err)
		}
	})
}

func TestSelfClocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: 10 * time.Millisecond}
		})
		w, result := running(t.Context(), Options{Store: store, Origin: session, FlushBytes: 1000, MaxBytes: 1500})
		a := newLog(1)
		add := func(n int) {
			for range n {
				if err := a.append(w, 100); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		inFlight := func(want int64) {
			t.Helper()
			if p := w.Position(); p.Next-p.Durable != want {
				t.Fatalf("%d objects in flight, want %d", p.Next-p.Durable, want)
			}
		}
		add(1)
		inFlight(1) // at once
		add(9)
		inFlight(1) // gathers
		add(1)
		inFlight(2) // enough
		add(5)
		time.Sleep(11 * time.Millisecond)
		synctest.Wait()
		inFlight(1) // the five
		add(100)    // at most 15 in each of three more
		inFlight(4) // all that may be
		add(100)    // nobody stops it here; Admit does
		inFlight(4)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Close(t.Context()); err != nil || <-result != nil {
			t.Fatal(err)
		}
		if next, durable, _ := a.state(); durable != next || a.wrong != "" {
			t.Errorf("%d of %d durable %s", durable, next, a.wrong)
		}
	})
}

func TestIntervalBoundsPuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, result := running(t.Context(), Options{Store: memstore.New(), Origin: session, Interval: 100 * time.Millisecond})
		a := newLog(1)
		for range 1000 {
			if err := a.append(w, 100); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if p := w.Position(); p.Next < 9 || p.Next > 11 {
			t.Errorf("%d PUTs in a second", p.Next)
		}
		if _, err := w.Close(t.Context()); err != nil || <-result != nil {
			t.Fatal(err)
		}
		if _, d, _ := a.state(); d != 1000 {
			t.Errorf("%d durable", d)
		}
	})
}

func TestLargeBatchIsAnObjectOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Options{Store: memstore.New(), Origin: session, MaxBytes: 1000})
		a := newLog(1)
		for _, size := range []int{5000, 600, 400, 70} {
			if err := a.append(w, size); err != nil {
				t.Fatal(err)
			}
		}
		result := make(chan error, 1)
		go func() { result <- w.Run(t.Context()) }()
		if at, err := w.Close(t.Context()); at != 3 || err != nil || <-result != nil {
			t.Errorf("sealed at %d: %v", at, err)
		}
	})
}

func TestAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		w, result := running(t.Context(), Options{Store: store, Origin: session, PendingBytes: 1000})
		a := newLog(1)
		if err := w.Admit(t.Context(), 5000); err != nil { // more than will ever fit, but alone
			t.Fatal(err)
		}
		if err := a.append(w, 900); err != nil {
			t.Fatal(err)
		}
		if err := w.Admit(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := w.Admit(ctx, 101); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("admitted beyond the bound: %v", err)
		}
		if err := w.Admit(t.Context(), 101); err != nil || time.Since(start) != time.Second {
			t.Errorf("admitted after %v: %v", time.Since(start), err)
		}
		if err := a.append(w, 900); err != nil {
			t.Fatal(err)
		}
		refused := make(chan error, 1)
		go func() { refused <- w.Admit(t.Context(), 500) }()
		synctest.Wait()
		if _, err := w.Close(t.Context()); err != nil || <-result != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, ErrClosed) {
			t.Errorf("admitted while closing: %v", err)
		}
	})
}

func TestOldestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		store.SetFault(func(memstore.Op, string) memstore.Fault {
			return memstore.Fault{Kind: memstore.Delay, After: time.Second}
		})
		w, result := running(t.Context(), Options{Store: store, Origin: session})
		a, start := newLog(1), time.Now()
		for i := range 3 {
			if err := a.append(w, 100); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				synctest.Wait()
			}
			time.Sleep(100 * time.Millisecond)
			if got := w.OldestWaiting(); !got.Equal(start) {
				t.Errorf("oldest is %v after the start", got.Sub(start))
			}
		}
		time.Sleep(time.Second)
		if got := w.OldestWaiting().Sub(start); got < 100*time.Millisecond {
			t.Errorf("oldest is %v after the start", got)
		}
		if _, err := w.Close(t.Context()); err != nil || <-result != nil {
			t.Fatal(err)
		}
	})
}

func TestFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		hook := 0
		w, result := running(t.Context(), Options{Store: store, Origin: session, Fenced: func() { hook++ }})
		a := newLog(1)
		if err := errors.Join(a.append(w, 100), w.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		at, err := Seal(t.Context(), store, session, 0, other)
		if err != nil || at != 1 {
			t.Fatalf("sealed at %d: %v", at, err)
		}
		if again, err := Seal(t.Context(), store, session, 0, session); again != at || err != nil {
			t.Fatalf("sealed again at %d: %v", again, err)
		}
		if err := a.append(w, 100); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(t.Context()); !errors.Is(err, ErrFenced) {
			t.Errorf("flush: %v", err)
		}
		if err := <-result; !errors.Is(err, ErrFenced) || hook != 1 {
			t.Errorf("run: %v, hook called %d times", err, hook)
		}
		if at, err := w.Close(t.Context()); !errors.Is(err, ErrFenced) || at != -1 {
			t.Errorf("close: %d, %v", at, err)
		}
		if next, durable, _ := a.state(); next != 2 || durable != 1 {
			t.Errorf("%d of %d durable", durable, next)
		}
	})
}

func TestCloseFindsForeignSeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		if _, err := Seal(t.Context(), store, session, 0, other); err != nil {
			t.Fatal(err)
		}
		w, result := running(t.Context(), Options{Store: store, Origin: session})
		if _, err := w.Close(t.Context()); !errors.Is(err, ErrFenced) {
			t.Errorf("close: %v", err)
		}
		if err := <-result; !errors.Is(err, ErrFenced) {
			t.Errorf("run: %v", err)
		}
	})
}

func TestRunEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		store.SetFault(func(memstore.Op, string) memstore.Fault { return memstore.Fault{Kind: memstore.Fail} })
		ctx, cancel := context.WithCancel(t.Context())
		w, result := running(ctx, Options{Store: store, Origin: session})
		a := newLog(1)
		if err := a.append(w, 100); err != nil {
			t.Fatal(err)
		}
		flushed := make(chan error, 1)
		go func() { flushed <- w.Flush(t.Context()) }()
		time.Sleep(time.Minute) // of the bubble: many attempts
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
		if err := <-flushed; !errors.Is(err, ErrClosed) {
			t.Errorf("flush: %v", err)
		}
	})
}

func TestPanicsOnWhatNobodyShouldHavePut(t *testing.T) {
	for name, body := range map[string]objstore.Buffers{
		"other session": walObject(bundle.Origin{Broker: 1, Epoch: 3, Nonce: [16]byte{9}}, 100),
		"same session":  walObject(session, 101),
		"garbage":       {[]byte("hello")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memstore.New()
				if err := store.Put(t.Context(), Key(session), body); err != nil {
					t.Fatal(err)
				}
				w := New(Options{Store: store, Origin: session})
				if err := newLog(1).append(w, 100); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), Key(session)) {
						t.Errorf("panicked with %v", r)
					}
				}()
				t.Errorf("run: %v", w.Run(t.Context()))
			})
		})
	}
}

func walObject(o bundle.Origin, size int) objstore.Buffers {
	m := bundle.Batch{ProducerID: -1}
	bufs, _, _ := bundle.WALBuffers(o, []bundle.SliceData{{Batches: []bundle.Batch{m}, Data: [][]byte{batchBytes(m, size)}}})
	return bufs
}

func TestHedge(t *testing.T) {
	const hedged = 5 // second PUTs that a quiet while allows at once
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		slow := map[string]int{}
		var mu sync.Mutex
		stuck := false
		store.SetFault(func(op memstore.Op, key string) memstore.Fault {
			mu.Lock()
			defer mu.Unlock()
			if slow[key]++; stuck && slow[key] == 1 {
				return memstore.Fault{Kind: memstore.Delay, After: 20 * time.Second}
			}
			if len(slow) == 1 {
				return memstore.Fault{Kind: memstore.Delay, After: 10 * time.Millisecond}
			}
			return memstore.Fault{Kind: memstore.Delay, After: 5 * time.Millisecond}
		})
		w, result := running(t.Context(), Options{Store: store, Origin: session, Hedge: true})
		a := newLog(1)
		for range 100 {
			if err := errors.Join(a.append(w, 100), w.Flush(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		stuck = true
		mu.Unlock()
		start := time.Now()
		if err := errors.Join(a.append(w, 100), w.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 30*time.Millisecond {
			t.Errorf("a stuck PUT took %v", d)
		}
		before := len(slow)
		for range 10 { // the store as a whole is slower now
			if err := errors.Join(a.append(w, 100), w.Flush(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(t.Context()); err != nil || <-result != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		twice := 0
		for _, n := range slow {
			if n == 2 {
				twice++
			}
		}
		if len(slow) != before+11 || twice != hedged {
			t.Errorf("%d of 11 stuck PUTs were sent a second time, want %d", twice, hedged)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	w, result := running(b.Context(), Options{Store: discard{}, Origin: session})
	l := newLog(1)
	m := bundle.Batch{ProducerID: -1}
	e := Entry{Target: l, TP: l.tp, Data: batchBytes(m, 16<<10)}
	b.ReportAllocs()
	for b.Loop() {
		e.Batch = m
		if err := w.Append(e); err != nil {
			b.Fatal(err)
		}
		m.BaseOffset++
	}
	if _, err := w.Close(b.Context()); err != nil || <-result != nil {
		b.Fatal(err)
	}
}

// discard takes everything.
type discard struct{ objstore.Store }

func (discard) Put(context.Context, string, objstore.Body) error { return nil }
