package api

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/slot"
	"github.com/varvelog/varve/engine/txn"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/wal"
)

const testSlots = 8

// rig is a server over a session in memory.
type rig struct {
	t      testing.TB
	s      *Server
	store  *memstore.Store
	addr   string
	stop   func() // stops serving, waits until it has
	served <-chan error
}

// settings of the test broker that differ from the defaults.
func testConfig(t testing.TB, more map[string]string) *config.Broker {
	t.Helper()
	kv := map[string]string{"num.partitions": "4", "group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1000"}
	for k, v := range more {
		kv[k] = v
	}
	cfg, err := config.ParseBroker(kv)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// newServer returns a server that is not serving yet.
func newServer(t testing.TB, more map[string]string) (*Server, *memstore.Store) {
	t.Helper()
	return newServerOn(t, memmeta.New(), more)
}

// newServerOn returns a server that follows a table of its caller's.
func newServerOn(t testing.TB, table meta.Store, more map[string]string) (*Server, *memstore.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := testConfig(t, more)
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	store := memstore.New()
	cat := catalog.New(table)
	cluster, err := cat.Cluster(ctx, testSlots)
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	cache, err := objcache.New(objcache.Options{Store: store, RAMBytes: cfg.CacheRAMBytes})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := cold.New(cold.Options{Catalog: cat, Cache: cache, Store: store, RAMBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	get := func() *config.Broker { return cfg }
	set := partition.NewSet()
	m, err := slot.Begin(ctx, slot.Options{
		Catalog: cat, Store: store, Cache: cache, Cold: reader, Config: get, Broker: 1, Addr: "localhost:9092", View: &member.View{Catalog: cat, Slots: cluster.Slots}, Logger: logger, Logs: set,
	})
	if err != nil {
		t.Fatal(err)
	}
	items := txn.Items{Catalog: cat, Slots: cluster.Slots}
	groups := group.New(group.Options{
		Catalog: cat, Config: get, Logger: logger,
		Slot:  func(id string) (catalog.Slot, bool) { return m.Slot(kafka.GroupSlot(id, cluster.Slots)) },
		Slots: m.Owned, InTxn: items.InTxn,
	})
	view := &member.View{Catalog: cat, Slots: cluster.Slots}
	txns := txn.New(txn.Options{
		Items: items, Slot: m.Slot, Owned: m.Owned, Logs: set, Groups: groups, Cluster: view.Now, Self: 1, Config: get, Logger: logger,
	})
	g := new(errgroup.Group)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { return groups.Run(ctx) })
	g.Go(func() error { return txns.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, wal.ErrFenced) {
			t.Error(err)
		}
	})
	s, err := New(Options{
		Cluster: view.Now, Catalog: cat, Logs: set, Groups: groups, Txns: txns, Config: get, Self: Broker{ID: 1, Host: "localhost", Port: 9092}, ClusterID: cluster.ID,
		Admit: m.Admit, Reconcile: m.Reconcile, Logger: logger,
		SetLogStart: func(ctx context.Context, l *partition.Log, off kafka.Offset) error {
			slot, _ := m.Slot(l.Slot())
			if err := cat.SetLogStart(ctx, slot, l.TP(), off); err != nil {
				return err
			}
			l.SetLogStart(off)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, store
}

// newRig returns a server that serves on the loopback interface.
func newRig(t testing.TB, more map[string]string) *rig {
	t.Helper()
	s, store := newServer(t, more)
	return serve(t, s, store)
}

func serve(t testing.TB, s *Server, store *memstore.Store) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	r := &rig{t: t, s: s, store: store, addr: l.Addr().String(), served: served}
	stopped := false
	r.stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(r.stop)
	return r
}

// client is a connection to a rig.
type client struct {
	t    testing.TB
	c    net.Conn
	corr int32
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return &client{t: r.t, c: c}
}

// send writes a request and returns its correlation id.
func (c *client) send(req kmsg.Request, version int16) int32 {
	c.t.Helper()
	req.SetVersion(version)
	c.corr++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))
	c.write(f.AppendRequest(nil, req, c.corr))
	return c.corr
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// frame sends bytes behind their length.
func (c *client) frame(b []byte) {
	c.t.Helper()
	c.write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}

// read returns the next response's bytes behind the length.
func (c *client) read() ([]byte, error) {
	if err := c.c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	var l [4]byte
	if _, err := io.ReadFull(c.c, l[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(l[:]))
	_, err := io.ReadFull(c.c, b)
	return b, err
}

// receive reads the answer to req, which must have the correlation id.
func (c *client) receive(req kmsg.Request, corr int32) kmsg.Response {
	c.t.Helper()
	b, err := c.read()
	if err != nil {
		c.t.Fatalf("key %d version %d: %v", req.Key(), req.GetVersion(), err)
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != corr {
		c.t.Fatalf("key %d version %d: correlation id %d, want %d", req.Key(), req.GetVersion(), got, corr)
	}
	b = b[4:]
	resp := req.ResponseKind()
	if resp.IsFlexible() && req.Key() != keyAPIVersions {
		b = b[1:]
	}
	if err := resp.ReadFrom(b); err != nil {
		c.t.Fatalf("key %d version %d: %v", req.Key(), req.GetVersion(), err)
	}
	return resp
}

// ask sends a request and returns its answer.
func ask[T kmsg.Response](c *client, req kmsg.Request, version int16) T {
	c.t.Helper()
	return c.receive(req, c.send(req, version)).(T)
}

// closed waits until the server has closed the connection without an answer.
func (c *client) closed() {
	c.t.Helper()
	if b, err := c.read(); err == nil {
		c.t.Fatalf("answered %x, want the connection closed", b)
	} else if errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatal(err)
	}
}

// create makes a topic and returns its id.
func (c *client) create(name string, partitions int32, configs ...string) kafka.TopicID {
	c.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	for i := 0; i < len(configs); i += 2 {
		cfg := kmsg.NewCreateTopicsRequestTopicConfig()
		cfg.Name, cfg.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, cfg)
	}
	req.Topics = append(req.Topics, t)
	row := ask[*kmsg.CreateTopicsResponse](c, req, 7).Topics[0]
	if row.ErrorCode != 0 {
		c.t.Fatalf("create %s: %v %s", name, kafka.ErrorCode(row.ErrorCode), *row.ErrorMessage)
	}
	return row.TopicID
}

// batch builds one batch of values.
func batch(t testing.TB, values ...string) []byte {
	t.Helper()
	b := record.NewBuilder(record.None)
	for _, v := range values {
		b.Append(time.Now().UnixMilli(), nil, []byte(v))
	}
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// produceReq asks to append to one partition.
func produceReq(topic string, id kafka.TopicID, partition int32, acks int16, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 10_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, records
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (c *client) produce(req *kmsg.ProduceRequest, version int16) kmsg.ProduceResponseTopicPartition {
	c.t.Helper()
	return ask[*kmsg.ProduceResponse](c, req, version).Topics[0].Partitions[0]
}

// fetchReq asks for one partition from an offset.
func fetchReq(topic string, id kafka.TopicID, partition int32, from int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = -1, 10_000, 1, 1<<20, -1
	return fetchMore(req, topic, id, partition, from)
}

func fetchMore(req *kmsg.FetchRequest, topic string, id kafka.TopicID, partition int32, from int64) *kmsg.FetchRequest {
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = partition, from, -1, 1<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// values returns the values of the records in fetched bytes.
func values(t testing.TB, b []byte) (all []string) {
	t.Helper()
	for one, err := range record.Split(b) {
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range record.Records(one, 1<<20) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(r.Value))
		}
	}
	return all
}

// pipe returns a client over a pipe, for tests in a bubble.
func pipe(t testing.TB, s *Server) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); newConn(s, theirs).serve(context.Background()) }()
	t.Cleanup(func() {
		_ = ours.Close()
		<-done
	})
	return &client{t: t, c: ours}
}
