package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

const (
	simSeeds = 300
	simLogs  = 5
)

// sim is one session under faults: producers append, the store fails in every
// way, and in the end the session seals itself or others do, while it goes on.
type sim struct {
	mu    sync.Mutex
	rng   *rand.Rand
	store *memstore.Store
	logs  []*log
	calm  bool // no more faults
}

func (s *sim) int(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

// fault is what happens to one call: most go through, after a while.
func (s *sim) fault(memstore.Op, string) memstore.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	ms := time.Duration(s.rng.IntN(20)) * time.Millisecond
	if s.calm {
		return memstore.Fault{Kind: memstore.Delay, After: ms}
	}
	switch s.rng.IntN(12) {
	case 0:
		return memstore.Fault{Kind: memstore.Fail}
	case 1:
		return memstore.Fault{Kind: memstore.FailApplied}
	case 2:
		return memstore.Fault{Kind: memstore.LandLater, After: time.Duration(ms.Milliseconds()) * ms}
	case 3: // paused, longer than an attempt's deadline
		return memstore.Fault{Kind: memstore.Delay, After: time.Duration(s.rng.IntN(60)) * time.Second}
	case 4:
		return memstore.Fault{Kind: memstore.LandLater, After: time.Duration(s.rng.IntN(600)) * time.Second}
	}
	return memstore.Fault{Kind: memstore.Delay, After: ms}
}

// answersLate is a store whose answers to PUTs may get lost or come late.
type answersLate struct {
	*memstore.Store
	s *sim
}

func (a answersLate) Put(ctx context.Context, key string, body objstore.Body) error {
	err := a.Store.Put(ctx, key, body)
	if a.s.int(10) == 0 {
		time.Sleep(time.Duration(a.s.int(40)) * time.Second)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

// honest reads past the faults.
type honest struct{ *memstore.Store }

func (h honest) ReadAt(_ context.Context, key string, p []byte, off int64) (int, int64, error) {
	b, ok := h.Object(key)
	if !ok {
		return 0, 0, objstore.ErrNotFound
	}
	return copy(p, b[max(0, int64(len(b))+off):]), int64(len(b)), nil // tails only
}

// produce appends until the writer takes nothing more or n batches are in.
func (s *sim) produce(w *Writer, l *log, n int) error {
	for range n {
		if err := w.Admit(context.Background(), 100); err != nil {
			return err
		}
		if err := l.append(w, 61+s.int(200)); err != nil {
			return err
		}
		if s.int(3) == 0 {
			time.Sleep(time.Duration(s.int(30)) * time.Millisecond)
		}
	}
	return nil
}

func (s *sim) options() Options {
	return Options{
		Store: answersLate{s.store, s}, Origin: session,
		MaxBytes: 100 + s.int(2000), FlushBytes: 50 + s.int(800), InFlight: 1 + s.int(5), PendingBytes: int64(100 + s.int(3000)),
		Interval: time.Duration(s.int(2)*s.int(100)) * time.Millisecond, Hedge: s.int(2) == 0, PutTimeout: 10 * time.Second,
	}
}

// check replays what is below the seal and compares it with what was acknowledged.
func (s *sim) check(at int64) error {
	replayed := make([]kafka.Offset, len(s.logs))
	err := Replay(context.Background(), honest{s.store}, Span{session, 0, at}, func(key string, o *bundle.Object) error {
		for _, sl := range o.Slices {
			for _, m := range sl.Batches {
				if p := sl.TP.Partition; m.BaseOffset != replayed[p] {
					return fmt.Errorf("%s: offset %d of partition %d, want %d", key, m.BaseOffset, p, replayed[p])
				}
				replayed[sl.TP.Partition]++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	seal := session
	seal.Seq = at
	if o, err := bundle.Read(context.Background(), bundle.At(honest{s.store}, Key(seal)), nil); err != nil || o.Kind != bundle.KindSeal {
		return fmt.Errorf("no seal at %d: %v", at, err)
	}
	for i, l := range s.logs {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.wrong != "" {
			return errors.New(l.wrong)
		}
		if l.durable > replayed[i] {
			return fmt.Errorf("partition %d: acknowledged up to %d, below the seal are %d", i, l.durable, replayed[i])
		}
		for _, key := range l.objects {
			if key >= Key(seal) {
				return fmt.Errorf("%s was acknowledged, the seal is at %d", key, at)
			}
		}
	}
	return nil
}

func eachSeed(t *testing.T, run func(t *testing.T, s *sim)) {
	for seed := range uint64(simSeeds) {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), store: memstore.New()}
				for p := range simLogs {
					s.logs = append(s.logs, newLog(int32(p)))
				}
				s.store.SetFault(s.fault)
				run(t, s)
			})
		})
		if !ok {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A session that ends in peace has everything durable, whatever the store does.
func TestEverythingAppendedBecomesDurable(t *testing.T) {
	eachSeed(t, func(t *testing.T, s *sim) {
		w, result := running(t.Context(), s.options())
		var wg sync.WaitGroup
		for _, l := range s.logs {
			wg.Go(func() {
				if err := s.produce(w, l, 40); err != nil {
					t.Error(err)
				}
				if err := w.Flush(t.Context()); err != nil {
					t.Error(err)
				}
				if next, durable, _ := l.state(); durable != next {
					t.Errorf("flushed: %d of %d", durable, next)
				}
			})
		}
		wg.Wait()
		at, err := w.Close(t.Context())
		if err != nil || <-result != nil {
			t.Fatal(err)
		}
		s.store.SetFault(nil)
		time.Sleep(time.Hour) // whatever still flies has landed
		if err := s.check(at); err != nil {
			t.Error(err)
		}
		for _, l := range s.logs {
			if next, durable, _ := l.state(); durable != next || next != 40 {
				t.Errorf("%d of %d", durable, next)
			}
		}
	})
}

// A zombie races those who seal it: after Seal has returned a position,
// nothing is ever acknowledged at or behind it, and everything acknowledged
// lies below.
func TestZombieRacesSealers(t *testing.T) {
	acked, fencedLate := 0, 0
	eachSeed(t, func(t *testing.T, s *sim) {
		fenced := make(chan struct{})
		o := s.options()
		o.Fenced = func() { close(fenced) }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w, result := running(ctx, o)
		var wg, producers sync.WaitGroup
		var stop atomic.Bool
		for _, l := range s.logs {
			producers.Go(func() {
				for s.produce(w, l, 10) == nil && !stop.Load() {
				}
				_ = l.append(w, 100) // behind the seals
			})
		}
		time.Sleep(time.Duration(s.int(2000)) * time.Millisecond)
		ends := make([]int64, 1+s.int(3))
		for i := range ends {
			wg.Go(func() {
				time.Sleep(time.Duration(s.int(2)*s.int(3000)) * time.Millisecond)
				sealer := other
				sealer.Broker += int32(i)
				at, err := Seal(t.Context(), answersLate{s.store, s}, session, 0, sealer)
				if err != nil {
					t.Error(err)
				}
				if ends[i] = at; i == 0 {
					if err := s.check(at); err != nil {
						t.Errorf("at the moment of the seal: %v", err)
					}
				}
			})
		}
		wg.Wait()
		stop.Store(true)
		producers.Wait()
		s.store.SetFault(nil)
		time.Sleep(time.Hour) // whatever still flies has landed
		select {
		case err := <-result:
			if <-fenced; !errors.Is(err, ErrFenced) {
				t.Errorf("run: %v", err)
			}
		default:
			t.Error("the zombie never heard that it is fenced")
		}
		for _, at := range ends {
			if at != ends[0] {
				t.Errorf("sealed at %v", ends)
			}
		}
		if err := s.check(ends[0]); err != nil {
			t.Error(err)
		}
		for _, l := range s.logs {
			_, d, _ := l.state()
			acked += int(d)
		}
		if w.Position().Next > ends[0] {
			fencedLate++
		}
	})
	if acked < simSeeds || fencedLate < simSeeds/2 {
		t.Errorf("%d acknowledged, %d races: the test tries nothing", acked, fencedLate)
	}
}
