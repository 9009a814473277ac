package retention

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// madeUp is a table with a log's entries in each of very many logs, which it
// makes up as they are read. It counts requests, and looks at the heap.
type madeUp struct {
	*memmeta.Store
	model         meta.Item // an entry
	entries       int64     // of each log, 10 offsets each
	gets, queries int
	commits, read int
	peak          uint64
}

func (m *madeUp) Get(ctx context.Context, key meta.Key) (meta.Item, error) {
	m.gets++
	return m.Store.Get(ctx, key)
}

func (m *madeUp) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	m.commits++
	return m.Store.Commit(ctx, id, ops...)
}

func (m *madeUp) Query(ctx context.Context, pk string, r meta.Range) ([]meta.Item, bool, error) {
	if m.queries++; m.queries%1000 == 0 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		m.peak = max(m.peak, s.HeapAlloc)
	}
	if !strings.HasPrefix(pk, "log/") {
		return m.Store.Query(ctx, pk, r)
	}
	after := int64(-1)
	if r.After != "" {
		var err error
		if after, err = strconv.ParseInt(strings.TrimPrefix(r.After, "seg/"), 10, 64); err != nil {
			return nil, false, err
		}
	}
	var items []meta.Item
	if r.Reverse { // the one before a key
		n := m.entries - 1
		if r.After != "" {
			n = min(n, (after-1)/10)
		}
		return append(items, m.item(pk, n)), n > 0, nil
	}
	n := after/10 + 1
	if after < 0 {
		n = 0
	}
	for ; n < m.entries && (r.Limit <= 0 || len(items) < r.Limit) && len(items) < 1000; n++ {
		items = append(items, m.item(pk, n))
	}
	m.read += len(items)
	return items, n < m.entries, nil
}

func (m *madeUp) item(pk string, n int64) meta.Item {
	item := m.model
	item.Key = meta.Key{PK: pk, SK: fmt.Sprintf("seg/%020d", 10*n)}
	item.Attrs = meta.Attrs{}
	for k, v := range m.model.Attrs {
		item.Attrs[k] = v
	}
	item.Attrs["base"], item.Attrs["end"] = 10*n, 10*n+10
	return item
}

// A pass over a million segments, with every entry's size read, ends within a
// minute, within a GiB, and with few requests.
func TestMillionSegments(t *testing.T) {
	const topics, partitions, entries = 10, 100, 1000
	m := &madeUp{Store: memmeta.New(), entries: entries}
	ctx := t.Context()
	m.model = modelEntry(t)
	cat := catalog.New(m)
	for i := range topics {
		_, err := cat.CreateTopic(ctx, catalog.Topic{Name: fmt.Sprint("t", i), ID: kafka.TopicID{byte(i + 1)}, Partitions: partitions,
			Configs: map[string]string{"retention.ms": "-1", "retention.bytes": strconv.Itoa(100 * (entries - 10))}}) // ten have to go
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.ParseBroker(nil)
	if err != nil {
		t.Fatal(err)
	}
	j, err := New(Options{Catalog: catalog.New(m), Store: memstore.New(), Slots: 256, Holder: "function", Config: func() *config.Broker { return cfg }})
	if err != nil {
		t.Fatal(err)
	}
	m.gets, m.queries, m.commits = 0, 0, 0
	begin, worked := time.Now(), cpu(t)
	stats, err := j.Turn(ctx)
	if err != nil || stats.Partitions != topics*partitions || stats.Raised != topics*partitions || m.read < topics*partitions*entries {
		t.Fatalf("%+v, %v; %d entries read", stats, err, m.read)
	}
	worked = cpu(t) - worked
	t.Logf("%v, %v of them at work, heap %d MiB, %d entries read by %d queries, %d gets, %d commits", time.Since(begin).Round(time.Millisecond), worked.Round(time.Millisecond), m.peak>>20, m.read, m.queries, m.gets, m.commits)
	if worked > time.Minute || m.peak > 1<<30 {
		t.Error("it takes more than a minute, or a GiB")
	}
	if limit := 10 * topics * partitions; m.queries+m.gets+m.commits > limit {
		t.Errorf("more than %d requests", limit)
	}
}

// cpu returns what processor time the process has had: that of a busy machine
// passes more slowly than its clock.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// modelEntry returns an entry as the catalogue writes it.
func modelEntry(t *testing.T) meta.Item {
	t.Helper()
	r := newRig(t, 1)
	items, _, err := r.meta.Query(t.Context(), fmt.Sprintf("log/%s/%010d", r.tp.Topic.Hex(), 0), meta.Range{})
	if err != nil || len(items) != 1 {
		t.Fatalf("%d entries, %v", len(items), err)
	}
	return items[0]
}
