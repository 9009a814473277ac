package memstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/objstore/objtest"
)

func TestConformance(t *testing.T) {
	objtest.Run(t, func(t *testing.T) objstore.Store { return memstore.New() })
}

func TestFaultConformance(t *testing.T) {
	objtest.RunFaults(t, func(t *testing.T) (objstore.Store, objtest.Faults) { return objtest.WithFaults(memstore.New()) })
}

func TestFaults(t *testing.T) {
	tests := []struct {
		fault             memstore.Fault
		putErr            error
		appliedAtAnswer   bool
		appliedAnHourOn   bool
		wantReadAtAnError bool
	}{
		{memstore.Fault{}, nil, true, true, false},
		{memstore.Fault{Kind: memstore.Fail}, memstore.ErrInjected, false, false, true},
		{memstore.Fault{Kind: memstore.FailApplied}, memstore.ErrInjected, true, true, true},
		{memstore.Fault{Kind: memstore.LandLater, After: time.Minute}, memstore.ErrInjected, false, true, true},
		{memstore.Fault{Kind: memstore.Delay, After: time.Second}, nil, true, true, false},
		{memstore.Fault{Kind: memstore.Delay, After: 2 * time.Minute}, context.DeadlineExceeded, false, false, true},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			s := memstore.New()
			s.SetFault(func(op memstore.Op, key string) memstore.Fault { return tt.fault })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := s.Put(ctx, "k", objstore.Buffers{[]byte("x")}); !errors.Is(err, tt.putErr) {
				t.Errorf("%+v: Put: %v, want %v", tt.fault, err, tt.putErr)
			}
			if _, got := s.Object("k"); got != tt.appliedAtAnswer {
				t.Errorf("%+v: applied at the answer: %v", tt.fault, got)
			}
			time.Sleep(time.Hour) // in the bubble
			synctest.Wait()
			if _, got := s.Object("k"); got != tt.appliedAnHourOn {
				t.Errorf("%+v: applied later: %v", tt.fault, got)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, _, err := s.ReadAt(ctx, "k", nil, 0)
			if (err != nil) != tt.wantReadAtAnError {
				t.Errorf("%+v: ReadAt: %v", tt.fault, err)
			}
		})
	}
}

// TestLandsOnTakenKey: a put that lands later must not replace what came first.
func TestLandsOnTakenKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		first := true
		s.SetFault(func(memstore.Op, string) memstore.Fault {
			if first {
				first = false
				return memstore.Fault{Kind: memstore.LandLater, After: time.Minute}
			}
			return memstore.Fault{}
		})
		if err := s.Put(t.Context(), "k", objstore.Buffers{[]byte("zombie")}); !errors.Is(err, memstore.ErrInjected) {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), "k", objstore.Buffers{[]byte("seal")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if b, _ := s.Object("k"); string(b) != "seal" {
			t.Errorf("content %q", b)
		}
	})
}
