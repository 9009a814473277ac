package manifest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// TestKeeper follows a catalogue: what it says is in the newest manifest a moment later,
// old ones go, nothing is written while nothing changes, and a failure is tried again.
func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cat, store := catalog.New(memmeta.New()), memstore.New()
		_, err := cat.Cluster(ctx, 4)
		if err != nil {
			t.Fatal(err)
		}
		mine, leads := "me", true
		k := manifest.Keeper{Catalog: cat, Store: store, Writer: func() (string, bool) { return mine, leads }, Warn: func(err error) { t.Log(err) }}
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			if _, err := cat.CreateTopic(ctx, catalog.Topic{Name: name, Partitions: 3, Configs: map[string]string{"retention.ms": "-1"}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			m, err := manifest.Newest(ctx, store)
			if err != nil || m.Topics[len(m.Topics)-1].Name != name {
				t.Fatalf("%s: %+v, %v", name, m, err)
			}
		}
		if err := cat.DeleteTopic(ctx, "b", kafka.TopicID{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		m, err := manifest.Newest(ctx, store)
		if err != nil || len(m.Topics) != 4 || len(m.Deleted) != 1 || m.Cluster.Slots != 4 {
			t.Errorf("%+v, %v", m, err)
		}
		want, err := manifest.Take(ctx, cat)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, m, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
		keys := store.Keys()
		time.Sleep(time.Hour)
		if d := cmp.Diff(keys, store.Keys()); d != "" || len(keys) != 3 {
			t.Errorf("%d manifests: %s", len(keys), d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFeedBeginsAnew: manifests of a catalogue that was lost do not hide those of the one in its place, however
// long its feed was.
func TestFeedBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		cat := catalog.New(memmeta.New())
		cl, err := cat.Cluster(t.Context(), 4)
		if err != nil {
			t.Fatal(err)
		}
		for change := range int64(3) {
			m := &manifest.Manifest{Format: 1, Change: 500 + change, Cluster: manifest.Cluster(cl), Topics: []manifest.Topic{{Name: "old"}}}
			if err := manifest.Write(t.Context(), store, m, "w"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		k := manifest.Keeper{Catalog: cat, Store: store, Writer: func() (string, bool) { return "me", true }, Warn: func(err error) { t.Error(err) }}
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		for i, name := range []string{"a", "b", "c", "d", "e"} {
			if _, err := cat.CreateTopic(ctx, catalog.Topic{Name: name, Partitions: 1}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			m, err := manifest.Newest(ctx, store)
			if err != nil || len(m.Topics) != i+1 || m.Topics[i].Name != name {
				t.Fatalf("%s: %+v, %v", name, m, err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestForeign: the manifests of another cluster stay as they are.
func TestForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, cat := memstore.New(), catalog.New(memmeta.New())
		if err := manifest.Write(t.Context(), store, &manifest.Manifest{Format: 1, Cluster: manifest.Cluster{ID: "another"}}, "w"); err != nil {
			t.Fatal(err)
		}
		if _, err := cat.Cluster(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		before := store.Keys()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		warned := 0
		k := manifest.Keeper{Catalog: cat, Store: store, Writer: func() (string, bool) { return "me", true }, Warn: func(err error) {
			if !errors.Is(err, catalog.ErrForeign) {
				t.Error(err)
			}
			warned++
		}}
		if err := k.Run(ctx); err != nil || warned == 0 {
			t.Errorf("%d warnings, %v", warned, err)
		}
		if d := cmp.Diff(before, store.Keys()); d != "" {
			t.Error(d)
		}
	})
}

// TestNewest: starts never fall, and what cannot be read is refused.
func TestNewest(t *testing.T) {
	store := memstore.New()
	if _, err := manifest.Newest(t.Context(), store); !errors.Is(err, objstore.ErrNotFound) {
		t.Error(err)
	}
	for change, off := range []kafka.Offset{7, 9, 8} {
		m := &manifest.Manifest{Format: 1, Change: int64(change), Starts: []manifest.Start{{Topic: "x", Partition: 1, Offset: off}}}
		if err := manifest.Write(t.Context(), store, m, "w"); err != nil {
			t.Fatal(err)
		}
	}
	m, err := manifest.Newest(t.Context(), store)
	if err != nil || m.Change != 2 || len(m.Starts) != 1 || m.Starts[0].Offset != 9 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, text := range []string{"{", `{"format":2}`, strings.Repeat(" ", 100_000) + "{"} {
		store := memstore.New()
		if err := store.Put(t.Context(), manifest.KeyPrefix+"1", objstore.Buffers{[]byte(text)}); err != nil {
			t.Fatal(err)
		}
		if _, err := manifest.Newest(t.Context(), store); !errors.Is(err, manifest.ErrFormat) {
			t.Errorf("%.10q: %v", text, err)
		}
	}
}
