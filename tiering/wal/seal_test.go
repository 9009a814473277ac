package wal

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

func TestReplayFindsHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		for seq := range int64(100) {
			o := session
			if o.Seq = seq; seq == 70 {
				continue
			}
			if err := store.Put(t.Context(), Key(o), walObject(o, 100)); err != nil {
				t.Fatal(err)
			}
		}
		seen := int64(0)
		err := Replay(t.Context(), store, Span{session, 10, 100}, func(_ string, o *bundle.Object) error {
			seen = o.Origin.Seq
			return nil
		})
		if !errors.Is(err, ErrHole) || seen != 69 {
			t.Errorf("replayed up to %d: %v", seen, err)
		}
		wrong := session
		wrong.Nonce[0]++
		if err := Replay(t.Context(), store, Span{wrong, 0, 1}, nil); !errors.Is(err, ErrHole) {
			t.Errorf("another session's objects: %v", err)
		}
		boom := errors.New("boom")
		if err := Replay(t.Context(), store, Span{session, 0, 70}, func(string, *bundle.Object) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("fn's error: %v", err)
		}
		if at, err := Seal(t.Context(), store, session, 75, other); at != 100 || err != nil {
			t.Errorf("sealed at %d: %v", at, err)
		}
	})
}

func TestSealListsManyPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		for seq := range int64(2500) {
			o := session
			o.Seq = seq
			if err := store.Put(t.Context(), Key(o), walObject(o, 100)); err != nil {
				t.Fatal(err)
			}
		}
		if at, err := Seal(t.Context(), store, session, 0, other); at != 2500 || err != nil {
			t.Errorf("sealed at %d: %v", at, err)
		}
		if at, err := Seal(t.Context(), store, session, 400, session); at != 2500 || err != nil {
			t.Errorf("sealed again at %d: %v", at, err)
		}
	})
}
