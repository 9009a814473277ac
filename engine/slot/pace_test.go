package slot

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPacer(t *testing.T) {
	tests := []struct {
		name    string
		grows   bool
		backlog float64
		work    time.Duration
		want    time.Duration
		hurry   bool
	}{
		{"nobody produces", false, 0, 10 * time.Millisecond, 0, false},
		{"little waits to be trimmed", true, 0.01, 10 * time.Millisecond, 70 * time.Millisecond, false},
		{"a quarter", true, 0.25, 10 * time.Millisecond, 10 * time.Millisecond, false},
		{"half", true, 0.5, 10 * time.Millisecond, 0, false},
		{"too much", true, 1.5, 10 * time.Millisecond, 0, false},
		{"after a pause", true, 0, time.Hour, 7 * longestJob, false},
		{"a hand-over waits", true, 0.01, 10 * time.Millisecond, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				written := int64(1)
				p := &pacer{written: func() int64 { return written }, backlog: func() float64 { return tt.backlog }, hurry: func() bool { return tt.hurry }}
				if err := p.wait(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
				<-time.After(tt.work)
				if tt.grows {
					written++
				}
				begin := time.Now()
				if err := p.wait(t.Context(), 1); err != nil || time.Since(begin) != tt.want {
					t.Errorf("waited %v, %v; want %v", time.Since(begin), err, tt.want)
				}
				written++
				<-time.After(tt.work)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := p.wait(ctx, 1); err == nil {
					t.Error("goes on after its context ended")
				}
			})
		})
	}
}

// Before work begins nothing is taken for it.
func TestPacerBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := int64(1)
		p := &pacer{written: func() int64 { return written }, backlog: func() float64 { return 0 }, hurry: func() bool { return false }}
		<-time.After(time.Hour)
		p.begin()
		for _, want := range []time.Duration{0, 70 * time.Millisecond} {
			<-time.After(10 * time.Millisecond)
			begin := time.Now()
			if err := p.wait(t.Context(), 1); err != nil || time.Since(begin) != want {
				t.Errorf("waited %v, %v; want %v", time.Since(begin), err, want)
			}
			written++
		}
	})
}

// Other background work waits while produce goes on, and only then.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written int64
		pace := Pace(func() int64 { return written })
		for _, busy := range []bool{false, true, false} {
			if err := pace(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond) // work
			if busy {
				written++
			}
			begin, want := time.Now(), time.Duration(0)
			if busy {
				want = 100 * time.Millisecond
			}
			if err := pace(t.Context(), 1); err != nil || time.Since(begin) != want {
				t.Errorf("busy %v: waited %v, %v", busy, time.Since(begin), err)
			}
		}
	})
}
