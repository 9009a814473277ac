package hedge

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("refused")

func counts(err error) bool { return err == nil }

// world makes calls that take as long as the next of takes says, with errors likewise.
type world struct {
	takes []time.Duration
	errs  []error
	made  atomic.Int32
	ended atomic.Int32 // before their time
}

func (w *world) call(ctx context.Context) (int, error) {
	n := int(w.made.Add(1)) - 1
	d, err := 10*time.Millisecond, error(nil)
	if n < len(w.takes) {
		d = w.takes[n]
	}
	if n < len(w.errs) {
		err = w.errs[n]
	}
	select {
	case <-time.After(d):
		return n, err
	case <-ctx.Done():
		w.ended.Add(1)
		return n, ctx.Err()
	}
}

// warm answers calls in 10 ms each until there is a p99.
func warm(c *Calls) {
	for range 2 * least {
		c.add(time.Now().Add(-10*time.Millisecond), true)
	}
}

func TestDo(t *testing.T) {
	const long = 10 * time.Second
	for _, tt := range []struct {
		name  string
		takes []time.Duration
		errs  []error
		got   int
		twice bool
		err   error
		limit time.Duration
	}{
		{"the first is stuck", []time.Duration{long, 10 * time.Millisecond}, nil, 1, true, nil, 25 * time.Millisecond},
		{"the first is late", []time.Duration{15 * time.Millisecond, long}, nil, 0, true, nil, 20 * time.Millisecond},
		{"in time", []time.Duration{5 * time.Millisecond}, nil, 0, false, nil, 5 * time.Millisecond},
		{"the second fails", []time.Duration{time.Second, 0}, []error{nil, errRefused}, 0, true, nil, time.Second},
		{"the first fails late", []time.Duration{15 * time.Millisecond, time.Second}, []error{errRefused, nil}, 1, true, nil, 1020 * time.Millisecond},
		{"both fail", []time.Duration{long, time.Second}, []error{errRefused, errRefused}, 0, true, errRefused, long},
		{"it fails in time", []time.Duration{5 * time.Millisecond}, []error{errRefused}, 0, false, errRefused, 5 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &Calls{}
				warm(c)
				w := &world{takes: tt.takes, errs: tt.errs}
				begin := time.Now()
				got, twice, err := Do(t.Context(), c, counts, w.call)
				if got != tt.got || twice != tt.twice || !errors.Is(err, tt.err) {
					t.Errorf("answer %d, twice %v, %v; want %d, %v, %v", got, twice, err, tt.got, tt.twice, tt.err)
				}
				if d := time.Since(begin); d > tt.limit {
					t.Errorf("it took %s, at most %s is allowed", d, tt.limit)
				}
				begin = time.Now()
				if c.Wait(); time.Since(begin) > 0 {
					t.Errorf("what was not waited for went on for %s", time.Since(begin))
				}
			})
		})
	}
}

// A store that is slower as a whole gets one call in twenty more, behind five at once.
func TestEarned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var second int
		c := &Calls{Second: func() { second++ }}
		warm(c)
		slow := make([]time.Duration, 1000)
		for i := range slow {
			slow[i] = time.Duration(20+i) * time.Millisecond // so that each is later than nearly all before
		}
		w := &world{takes: slow}
		for range 200 {
			if _, _, err := Do(t.Context(), c, counts, w.call); err != nil {
				t.Fatal(err)
			}
		}
		if want := most + 200/earned; second < most+1 || second > want {
			t.Errorf("%d of 200 calls were made twice, at most %d are allowed", second, want)
		}
	})
}

func TestP99(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Calls{}
		add := func(d time.Duration) { c.add(time.Now().Add(-d), true) }
		for i := range least - 1 {
			add(time.Duration(i+1) * time.Millisecond)
		}
		if _, ok := c.p99(); ok {
			t.Error("a p99 of too few")
		}
		for i := range 10 * window {
			add(time.Duration(i%100+1) * time.Millisecond)
		}
		if d, ok := c.p99(); !ok || d < 98*time.Millisecond || d > 100*time.Millisecond {
			t.Errorf("p99 of 1 to 100 ms is %v", d)
		}
	})
}

func TestNone(t *testing.T) {
	w := &world{errs: []error{errRefused}, takes: []time.Duration{0}}
	if _, twice, err := Do(t.Context(), nil, counts, w.call); twice || !errors.Is(err, errRefused) {
		t.Error(twice, err)
	}
	(*Calls)(nil).Wait()
}
