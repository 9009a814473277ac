package slot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
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

const (
	slots      = 12
	partitions = 12
)

// rig is a cluster of slot managers over memory stores, in a bubble.
type rig struct {
	t     *testing.T
	store *memstore.Store
	meta  *memmeta.Store
	nodes []*node
	topic catalog.Topic
	admin *catalog.Catalog
	room  func() int64 // of brokers that start from now on

	mu    sync.Mutex
	acked map[int32]map[kafka.Offset]string
}

// node is one broker process, as far as slots go.
type node struct {
	r    *rig
	id   int32
	gate *gate
	opts Options
	m    atomic.Pointer[Manager]
	cat  *catalog.Catalog
	stop context.CancelFunc
	done chan struct{} // closed when run has ended, with err
	err  error
	up   chan struct{} // closed when nobody listens any more
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, store: memstore.New(), meta: memmeta.New(), acked: map[int32]map[kafka.Offset]string{}}
	r.meta.Hook = func(string, []meta.Op) memmeta.Fault {
		return memmeta.Fault{Before: time.Millisecond, After: time.Millisecond}
	}
	r.store.SetFault(func(memstore.Op, string) memstore.Fault {
		return memstore.Fault{Kind: memstore.Delay, After: 2 * time.Millisecond}
	})
	r.admin = catalog.New(r.meta)
	topic, err := r.admin.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: partitions, ReplicationFactor: 1})
	if err != nil {
		t.Fatal(err)
	}
	r.topic = topic
	return r
}

// start starts a broker. Its address is its id.
func (r *rig) start(id int32, more ...string) *node {
	r.t.Helper()
	kv := map[string]string{"wal.checkpoint.objects": "50"}
	for i := 0; i < len(more); i += 2 {
		kv[more[i]] = more[i+1]
	}
	cfg, err := config.ParseBroker(kv)
	if err != nil {
		r.t.Fatal(err)
	}
	n := &node{r: r, id: id, gate: newGate(), done: make(chan struct{}), up: make(chan struct{})}
	n.cat = catalog.New(gatedMeta{r.meta, n.gate})
	store := gatedStore{r.store, n.gate}
	cache, err := objcache.New(objcache.Options{Store: store, RAMBytes: 8 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	reader, err := cold.New(cold.Options{Catalog: n.cat, Cache: cache, Store: store, RAMBytes: 1 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	out := io.Discard
	if os.Getenv("VARVE_LOG") != "" {
		out = r.t.Output()
	}
	n.opts = Options{
		Catalog: n.cat, Store: store, Cache: cache, Cold: reader, Config: func() *config.Broker { return cfg },
		Broker: id, Addr: fmt.Sprintf("b%d:9092", id), View: &member.View{Catalog: n.cat, Slots: slots}, Logs: partition.NewSet(),
		Logger: slog.New(slog.NewTextHandler(out, nil)).With("at", id), Dial: r.dial, Follows: new(catalog.Session), Room: r.room,
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	r.nodes = append(r.nodes, n)
	go func() {
		defer close(n.done)
		n.err = n.run(ctx)
	}()
	return n
}

// run holds one session after the other, as engine/broker does.
func (n *node) run(ctx context.Context) error {
	if err := n.cat.Refresh(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var follow sync.WaitGroup
	follow.Go(func() { _ = n.cat.Run(ctx, func(error) {}) })
	defer follow.Wait()
	defer cancel()
	for ctx.Err() == nil {
		m, err := Begin(ctx, n.opts)
		if errors.Is(err, catalog.ErrSuperseded) {
			return err
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		n.m.Store(m)
		if err := m.Run(ctx); !errors.Is(err, wal.ErrFenced) {
			return err
		}
	}
	return ctx.Err()
}

// leave ends a broker in order.
func (n *node) leave() {
	n.r.t.Helper()
	m := n.m.Load()
	if err := m.HandOver(n.r.t.Context()); err != nil {
		n.r.t.Errorf("hand over: %v", err)
	}
	close(n.up)
	if err := m.Leave(n.r.t.Context()); err != nil {
		n.r.t.Errorf("leave: %v", err)
	}
	n.stop()
	<-n.done
}

// kill ends a broker as kill -9 does: what it does next reaches nobody.
func (n *node) kill() {
	n.gate.set(dead)
	close(n.up)
	n.stop()
}

func (r *rig) end() {
	for _, n := range r.nodes {
		n.gate.set(open)
		n.stop()
	}
	for _, n := range r.nodes {
		select {
		case <-n.done:
		case <-time.After(time.Hour):
			r.t.Errorf("broker %d does not end", n.id)
		}
	}
}

func (r *rig) dial(ctx context.Context, addr string) (net.Conn, error) {
	time.Sleep(time.Millisecond)
	for _, n := range slices.Backward(r.nodes) {
		if n.opts.Addr != addr {
			continue
		}
		select {
		case <-n.up:
			return nil, syscall.ECONNREFUSED
		default:
		}
		here, there := net.Pipe()
		go func() {
			select {
			case <-n.up:
			case <-n.done:
			}
			_ = there.Close()
		}()
		return here, nil
	}
	return nil, syscall.ECONNREFUSED
}

// owner returns the broker that holds a partition now, among those not dead or paused; nil: none.
func (r *rig) owner(p int32) *node {
	for _, n := range r.nodes {
		if n.gate.is(open) {
			if _, ok := n.log(p); ok {
				return n
			}
		}
	}
	return nil
}

func (n *node) log(p int32) (*partition.Log, bool) {
	return n.opts.Logs.Get(kafka.TopicPartition{Topic: n.r.topic.ID, Partition: p})
}

// held returns the slots that a broker holds.
func (n *node) held() int {
	if m := n.m.Load(); m != nil {
		return len(m.Owned())
	}
	return 0
}

// until waits for a condition, in the bubble's time, and returns how long it took.
func (r *rig) until(what string, limit time.Duration, ok func() bool) time.Duration {
	r.t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			r.t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

// holding tells whether the brokers hold so many slots.
func holding(want map[*node]int) func() bool {
	return func() bool {
		for n, k := range want {
			if n.held() != k {
				return false
			}
		}
		return true
	}
}

// append appends one record to a partition at a broker, and notes it when it
// is acknowledged.
func (n *node) append(ctx context.Context, p int32, value string) error {
	l, ok := n.log(p)
	if !ok {
		return kafka.NotLeaderOrFollower
	}
	b := record.NewBuilder(record.None)
	b.Append(time.Now().UnixMilli(), nil, []byte(value))
	batch, err := b.Bytes()
	if err != nil {
		return err
	}
	h, err := record.ParseHeader(batch)
	if err != nil {
		return err
	}
	a, err := l.Append(batch, h)
	if err != nil {
		return err
	}
	if err := l.AwaitDurable(ctx, a.Last); err != nil {
		return err
	}
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	if n.r.acked[p] == nil {
		n.r.acked[p] = map[kafka.Offset]string{}
	}
	if was, ok := n.r.acked[p][a.Base]; ok {
		n.r.t.Errorf("partition %d offset %d was acknowledged twice: %s and %s", p, a.Base, was, value)
	}
	n.r.acked[p][a.Base] = value
	return nil
}

// write appends to all partitions at whoever holds them, every few milliseconds, until stop.
func (r *rig) write(stop <-chan struct{}) (done func()) {
	var wg sync.WaitGroup
	for p := range int32(partitions) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(7 * time.Millisecond):
				}
				if n := r.owner(p); n != nil {
					ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
					_ = n.append(ctx, p, fmt.Sprintf("%d-%d", p, i))
					cancel()
				}
			}
		})
	}
	return wg.Wait
}

// forget lets what was acknowledged below a log's start be gone.
func (r *rig) forget(p int32, start kafka.Offset) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.acked[p], func(off kafka.Offset, _ string) bool { return off < start })
}

// check reads all partitions at their owners: what was acknowledged is there.
func (r *rig) check() {
	r.t.Helper()
	total := 0
	for p := range int32(partitions) {
		r.until(fmt.Sprintf("an owner of partition %d", p), time.Minute, func() bool { return r.owner(p) != nil })
		got := r.owner(p).readAll(p)
		for off, value := range r.acked[p] {
			if got[off] != value {
				r.t.Errorf("partition %d offset %d: %q was acknowledged, %q is there", p, off, value, got[off])
			}
			total++
		}
	}
	if total == 0 {
		r.t.Error("nothing was acknowledged")
	}
	r.t.Logf("%d records", total)
}

func (n *node) readAll(p int32) map[kafka.Offset]string {
	n.r.t.Helper()
	l, ok := n.log(p)
	if !ok {
		n.r.t.Fatalf("partition %d is not at broker %d", p, n.id)
	}
	got := map[kafka.Offset]string{}
	for off := l.Offsets().LogStart; off < l.Offsets().HighWatermark; {
		arena := objcache.NewArena()
		res, err := l.Read(n.r.t.Context(), off, 1<<20, kafka.ReadUncommitted, arena)
		if err != nil {
			n.r.t.Fatalf("read partition %d from %d: %v", p, off, err)
		}
		b := slices.Concat(res.Bufs...)
		for len(b) > 0 {
			h, err := record.ParseHeader(b)
			if err != nil {
				n.r.t.Fatal(err)
			}
			got[h.BaseOffset] = valueOf(b[:h.Size()])
			off = h.LastOffset() + 1
			b = b[h.Size():]
		}
		arena.Release()
	}
	return got
}

// valueOf returns the value of a batch's only record.
func valueOf(b []byte) string {
	body := b[61:]
	body = body[slices.Index(body, 1)+1:] // behind the null key's length
	n, w := binary.Varint(body)
	return string(body[w : w+int(n)])
}

// gate stands before a process's stores.
type gate struct {
	mu    sync.Mutex
	state gateState
	moved chan struct{}
}

type gateState int

const (
	open   gateState = iota
	paused           // calls wait until the process goes on
	dead             // calls never return a result
)

func newGate() *gate { return &gate{moved: make(chan struct{})} }

func (g *gate) set(s gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = s
	close(g.moved)
	g.moved = make(chan struct{})
}

func (g *gate) is(s gateState) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state == s
}

// pass waits until the process runs. A paused one's calls are made after all, whatever
// their deadlines were: they were on their way.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		state, moved := g.state, g.moved
		g.mu.Unlock()
		switch state {
		case open:
			return nil
		case dead:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-moved:
			}
		case paused:
			<-moved
		}
	}
}

type gatedMeta struct {
	meta.Store
	g *gate
}

func (m gatedMeta) Get(ctx context.Context, k meta.Key) (meta.Item, error) {
	if err := m.g.pass(ctx); err != nil {
		return meta.Item{}, err
	}
	return m.Store.Get(ctx, k)
}

func (m gatedMeta) Query(ctx context.Context, pk string, r meta.Range) ([]meta.Item, bool, error) {
	if err := m.g.pass(ctx); err != nil {
		return nil, false, err
	}
	return m.Store.Query(ctx, pk, r)
}

func (m gatedMeta) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	if err := m.g.pass(ctx); err != nil {
		return err
	}
	return m.Store.Commit(context.WithoutCancel(ctx), id, ops...)
}

type gatedStore struct {
	*memstore.Store
	g *gate
}

func (s gatedStore) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := s.g.pass(ctx); err != nil {
		return err
	}
	return s.Store.Put(context.WithoutCancel(ctx), key, body)
}

func (s gatedStore) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, int64, error) {
	if err := s.g.pass(ctx); err != nil {
		return 0, 0, err
	}
	return s.Store.ReadAt(ctx, key, b, off)
}

func (s gatedStore) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := s.g.pass(ctx); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, limit)
}

func (s gatedStore) Delete(ctx context.Context, keys ...string) error {
	if err := s.g.pass(ctx); err != nil {
		return err
	}
	return s.Store.Delete(ctx, keys...)
}
