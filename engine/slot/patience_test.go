package slot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/wal"
)

// place is where sessions live.
type place struct {
	items   *memmeta.Store
	objects *memstore.Store
	log     bytes.Buffer
}

// options are those of a broker that has just come up.
func (p *place) options(t *testing.T) Options {
	t.Helper()
	cfg, err := config.ParseBroker(nil)
	if err != nil {
		t.Fatal(err)
	}
	cat := catalog.New(p.items)
	if err := cat.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cache, err := objcache.New(objcache.Options{Store: p.objects, RAMBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := cold.New(cold.Options{Catalog: cat, Cache: cache, Store: p.objects, RAMBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Catalog: cat, Store: p.objects, Cache: cache, Cold: reader, Config: func() *config.Broker { return cfg },
		Broker: 1, Addr: "localhost:9092", View: &member.View{Catalog: cat, Slots: 8}, Logger: slog.New(slog.NewTextHandler(&p.log, nil)), Logs: partition.NewSet(),
	}
}

// live begins a session, appends n records, each in an object of its own, and dies.
func (p *place) live(t *testing.T, n int) {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	o := p.options(t)
	m, err := Begin(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Catalog.CreateTopic(ctx, catalog.Topic{Name: "t", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	if err := m.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	l := m.Logs().All()[0]
	for range n {
		b := record.NewBuilder(record.None)
		b.Append(time.Now().UnixMilli(), nil, []byte("v"))
		raw, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		h, err := record.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(raw, h); err != nil {
			t.Fatal(err)
		}
		if err := m.wal.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	<-ended
}

func newPlace(t *testing.T) *place {
	p := &place{items: memmeta.New(), objects: memstore.New()}
	if _, err := catalog.New(p.items).Cluster(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestBeginPersists: every other call of catalogue and store fails while a
// session takes over from a dead one.
func TestBeginPersists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		const records = 100
		p.live(t, records)
		o := p.options(t)
		var failed atomic.Int64
		fails := func() bool {
			bad := rand.IntN(2) == 0
			if bad {
				failed.Add(1)
			}
			return bad
		}
		p.items.Hook = func(string, []meta.Op) memmeta.Fault { return memmeta.Fault{Fail: fails()} }
		p.objects.SetFault(func(memstore.Op, string) memstore.Fault {
			if fails() {
				return memstore.Fault{Kind: memstore.Fail}
			}
			return memstore.Fault{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		m, err := Begin(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Reconcile(ctx); err != nil {
			t.Fatal(err)
		}
		if got := m.Logs().All()[0].Offsets().HighWatermark; got != records {
			t.Errorf("high watermark %d, want %d", got, records)
		}
		if failed.Load() < records/2 {
			t.Errorf("only %d calls failed", failed.Load())
		}
	})
}

// TestBeginGivesUp: when its time is over, and at once where trying again
// would not help.
func TestBeginGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.live(t, 3)
		o := p.options(t)
		p.objects.SetFault(func(op memstore.Op, _ string) memstore.Fault {
			if op == memstore.OpReadAt {
				return memstore.Fault{Kind: memstore.Fail}
			}
			return memstore.Fault{}
		})
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := Begin(ctx, o); !errors.Is(err, memstore.ErrInjected) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("gave up after %v", took)
		}
		if lines := strings.Count(p.log.String(), "trying again"); lines < 3 || lines > 13 {
			t.Errorf("%d lines in a minute:\n%s", lines, p.log.String())
		}

		p.objects.SetFault(nil)
		if err := p.objects.Delete(t.Context(), p.objects.Keys()[0]); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if _, err := Begin(t.Context(), p.options(t)); !errors.Is(err, wal.ErrHole) {
			t.Errorf("a missing object: %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("a missing object: gave up after %v", took)
		}
	})
}

// TestPatience: waits grow to a bound, the end of an object is no failure.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		began, tries := time.Now(), 0
		steps := &patience{log: slog.New(slog.DiscardHandler)}
		err := steps.persist(t.Context(), "try", func() error {
			if tries++; tries < 12 {
				return errors.New("not now")
			}
			return nil
		})
		// 10 + 20 + … + 2,560 ms, then 3 s twice
		if want := 11*time.Second + 110*time.Millisecond; err != nil || time.Since(began) != want {
			t.Errorf("%v after %v, want it after %v", err, time.Since(began), want)
		}
		if err := p.objects.Put(t.Context(), "a", objstore.Buffers{[]byte("abc")}); err != nil {
			t.Fatal(err)
		}
		n, size, err := patientStore{p.objects, steps}.ReadAt(t.Context(), "a", make([]byte, 8), 0)
		if n != 3 || size != 3 || !errors.Is(err, io.EOF) {
			t.Errorf("%d of %d bytes, %v", n, size, err)
		}
	})
}
