package broker

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/varvelog/varve/engine/api"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

func options(t *testing.T, store *memmeta.Store, log *bytes.Buffer) Options {
	t.Helper()
	cfg, err := config.ParseBroker(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the broker may have closed it
	return Options{
		Meta: store, Store: memstore.New(), Listener: l, Self: api.Broker{ID: 1, Host: "127.0.0.1"}, Config: cfg,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
}

// TestStartIsPatient has the first calls of the catalogue fail, and some later ones, before the
// broker serves, and sees it serve.
func TestStartIsPatient(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	store := memmeta.New()
	var calls atomic.Int64
	var serves atomic.Bool
	store.Hook = func(string, []meta.Op) memmeta.Fault {
		n := calls.Add(1)
		return memmeta.Fault{Fail: !serves.Load() && (n < 6 || n%40 == 0)}
	}
	var log bytes.Buffer
	o := options(t, store, &log)
	o.Ready = func(string) { serves.Store(true); cancel() }
	if err := Run(ctx, o); err != nil || !serves.Load() {
		t.Errorf("run: %v", err)
	}
	if !strings.Contains(log.String(), `starting late: trying again" what="read the catalogue"`) {
		t.Errorf("the log says nothing of it:\n%s", &log)
	}
}

// TestStartGivesUp: what the next attempt would find again ends it at once.
func TestStartGivesUp(t *testing.T) {
	store := memmeta.New()
	op := meta.Create(meta.Key{PK: "cluster", SK: "info"}, meta.Attrs{"v": int64(1), "id": "x", "slots": int64(1), "level": int64(catalog.Level + 1)})
	if err := store.Commit(t.Context(), meta.NewCommitID(), op); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := Run(t.Context(), options(t, store, &log)); !errors.Is(err, catalog.ErrLevel) {
		t.Errorf("run: %v", err)
	}
}

// TestCatalogueIsGone: no broker makes a new cluster over the objects of one whose catalogue is gone.
func TestCatalogueIsGone(t *testing.T) {
	objects, first := memstore.New(), memmeta.New()
	var log bytes.Buffer
	var cached []string // clusters whose caches were opened
	start := func(table *memmeta.Store) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o := options(t, table, &log)
		o.Store, o.Ready = objects, func(string) { cancel() }
		o.CacheDisk = func(clusterID string) (vfs.FS, error) { cached = append(cached, clusterID); return nil, nil }
		return Run(ctx, o)
	}
	for range 2 { // as does a second start
		if err := start(first); err != nil {
			t.Fatal(err)
		}
	}
	cl, err := catalog.New(first).ReadCluster(t.Context())
	if err != nil || len(cached) != 2 || cached[0] != cl.ID || cached[1] != cl.ID {
		t.Errorf("the caches of %v were opened, the cluster is %s, %v", cached, cl.ID, err)
	}
	table := memmeta.New()
	if err := start(table); !errors.Is(err, catalog.ErrForeign) || !strings.Contains(err.Error(), "varve catalog rebuild") {
		t.Errorf("run: %v", err)
	}
	if _, err := catalog.New(table).ReadCluster(t.Context()); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("the catalogue has a cluster: %v", err)
	}
}

// TestBucketOfAnother: no broker goes on over the objects of another cluster than its catalogue's.
func TestBucketOfAnother(t *testing.T) {
	table := memmeta.New()
	cl, err := catalog.New(table).Cluster(t.Context(), DefaultSlots)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{cl.ID, "another"} {
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o := options(t, table, &log)
		o.Store, o.Ready = memstore.New(), func(string) { cancel() }
		m := &manifest.Manifest{Format: 1, Cluster: manifest.Cluster{ID: id}}
		if err := manifest.Write(ctx, o.Store, m, "w"); err != nil {
			t.Fatal(err)
		}
		if err := Run(ctx, o); errors.Is(err, catalog.ErrForeign) != (id != cl.ID) {
			t.Errorf("run over the objects of %s: %v", id, err)
		}
	}
}

// TestSettingsOfAll: what is set for all brokers holds at each of them, and after a restart.
func TestSettingsOfAll(t *testing.T) {
	table, objects := memmeta.New(), memstore.New()
	var log bytes.Buffer
	start := func() *Broker {
		t.Helper()
		o := options(t, table, &log)
		o.Store = objects
		b, err := assemble(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	set := func(by *Broker, kv map[string]string) {
		t.Helper()
		err := by.catalog.AlterBrokerConfigs(t.Context(), "", func(map[string]string) (map[string]string, error) { return kv, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	bytesOf := func(b *Broker) int64 { return config.EffectiveTopic(b.settings(), nil).SegmentBytes }
	a, b := start(), start()
	was := bytesOf(a)
	set(a, map[string]string{"log.segment.bytes": "7654321"})
	if err := b.catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, broker := range map[string]*Broker{"where it was set": a, "at another": b, "at one that starts": start()} {
		if n := bytesOf(broker); n != 7654321 {
			t.Errorf("%s: %d", name, n)
		}
		if first := broker.settings(); broker.settings() != first {
			t.Errorf("%s: it is parsed each time", name)
		}
	}
	set(b, nil)
	if n := bytesOf(b); n != was {
		t.Errorf("taken back: %d, was %d", n, was)
	}
}

// TestStartAsksLittle counts what a start on a cluster that was used asks the
// catalogue until it serves: it does not grow with the number of slots. What
// begins beside it, such as the expiry of groups, may be counted too: the least of some starts counts.
func TestStartAsksLittle(t *testing.T) {
	store := memmeta.New()
	var log bytes.Buffer
	objects := memstore.New()
	var calls [5]atomic.Int64
	for i := range calls {
		var serves atomic.Bool
		store.Hook = func(string, []meta.Op) memmeta.Fault {
			if !serves.Load() {
				calls[i].Add(1)
			}
			return memmeta.Fault{}
		}
		ctx, cancel := context.WithCancel(t.Context())
		o := options(t, store, &log)
		o.Store, o.Ready = objects, func(string) { serves.Store(true); cancel() }
		if err := Run(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	least := calls[1].Load()
	for i := range calls[2:] {
		least = min(least, calls[2+i].Load())
	}
	t.Logf("%d calls for a new cluster, %d for one that was used", calls[0].Load(), least)
	if least > DefaultSlots/4 {
		t.Errorf("%d calls", least)
	}
}
