// Package broker assembles a broker: the catalogue, the object cache, one
// session's slots, the group coordinator and the server, and takes them down
// in order.
//
// Coming up: cluster → topics → session → logs → listen. Going down: stop
// taking requests and let the answers leave, then flush, checkpoint and seal the session, so
// that the next start replays nothing. A session that somebody else has sealed is over; the
// broker begins a new one.
package broker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/engine/api"
	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/peer"
	"github.com/varvelog/varve/engine/slot"
	"github.com/varvelog/varve/engine/txn"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

// DefaultSlots is the number of slots of a new cluster.
const DefaultSlots = 256

const (
	startTimeout = 2 * time.Minute
	leaveTimeout = 60 * time.Second
	// handOverTimeout bounds what a leaving broker gives for handing over; others take the rest behind its seal.
	handOverTimeout = 20 * time.Second
	// farewell is how long it serves after that: who asks for what it had is told who has it now.
	farewell    = time.Second
	rejoinDelay = 200 * time.Millisecond
)

// Options are a broker's ports and place. All but CacheDisk, Registry, Dial, Room and Ready are required.
type Options struct {
	Meta  meta.Store
	Store objstore.Store
	// CacheDisk returns the folder of the object cache's disk layer, of this cluster's alone: WAL objects have the same keys in
	// another. Nil: there is none.
	CacheDisk func(clusterID string) (vfs.FS, error)
	Listener  net.Listener
	Self      api.Broker // as clients reach it
	Config    *config.Broker
	Logger    *slog.Logger
	Registry  *prometheus.Registry // nil: no metrics
	// Dial connects to another broker, to see when it has gone (slot.Options.Dial), and to read what it leads for
	// consumers in this broker's rack. Nil: only heartbeats tell, and consumers read from leaders.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Room returns the bytes that the store has room for (slot.Options.Room). Nil: no end of it.
	Room func() int64
	// Ready is called when the broker serves, with the cluster's id.
	Ready func(clusterID string)
}

// Broker is a running broker.
type Broker struct {
	o       Options
	catalog *catalog.Catalog
	cluster catalog.Cluster
	view    *member.View
	cache   *objcache.Cache
	cold    *cold.Reader
	logs    *partition.Set
	slots   slot.Options
	peers   *peer.Pool // nil: other brokers cannot be reached

	manager atomic.Pointer[slot.Manager] // of the session of the moment
	applied atomic.Pointer[applied]
}

// applied is the configuration by a snapshot of the catalogue.
type applied struct {
	by     *catalog.Topics
	config *config.Broker
}

// Run runs a broker until ctx ends, and then until it has left in order.
func Run(ctx context.Context, o Options) error {
	b, err := assemble(ctx, o)
	if err != nil {
		return err
	}
	return b.run(ctx)
}

func assemble(ctx context.Context, o Options) (*Broker, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	b := &Broker{o: o, logs: partition.NewSet()}
	b.applied.Store(&applied{config: o.Config})
	reg := b.registerer()
	if o.Config.MetadataHedge {
		hedged, err := meta.Hedged(o.Meta, reg)
		if err != nil {
			return nil, err
		}
		o.Meta = hedged
	}
	b.catalog = catalog.New(o.Meta)
	err := slot.Persist(ctx, o.Logger, "read the catalogue", func() (err error) {
		if b.cluster, err = cluster(ctx, b.catalog, o.Store); err != nil {
			return err
		}
		return b.catalog.Refresh(ctx)
	})
	if err != nil {
		return nil, err
	}
	var disk vfs.FS
	if o.CacheDisk != nil {
		if disk, err = o.CacheDisk(b.cluster.ID); err != nil {
			return nil, err
		}
	}
	if b.cache, err = objcache.New(objcache.Options{Store: o.Store, RAMBytes: o.Config.CacheRAMBytes, Disk: disk, DiskBytes: o.Config.CacheDiskBytes, Logger: o.Logger, Registerer: reg}); err != nil {
		return nil, err
	}
	b.cold, err = cold.New(cold.Options{Catalog: b.catalog, Cache: b.cache, Store: o.Store, RAMBytes: o.Config.ColdRAMBytes, Workers: o.Config.ColdWorkers, Registerer: reg})
	if err != nil {
		return nil, err
	}
	b.view = &member.View{Catalog: b.catalog, Slots: b.cluster.Slots}
	b.slots = slot.Options{
		Catalog: b.catalog, Store: o.Store, Cache: b.cache, Cold: b.cold, Config: b.settings,
		Broker: o.Self.ID, Addr: net.JoinHostPort(o.Self.Host, fmt.Sprint(o.Self.Port)), Rack: o.Self.Rack,
		View: b.view, Logger: o.Logger, Logs: b.logs, Dial: o.Dial, Room: o.Room, Follows: new(catalog.Session),
	}
	if o.Dial != nil {
		b.peers = peer.NewPool(fmt.Sprintf("broker-%d", o.Self.ID), o.Dial)
	}
	if reg != nil {
		b.register(reg)
		b.slots.LogMetrics, b.slots.WALMetrics = partition.NewMetrics(reg, b.logs), wal.NewMetrics(reg)
	}
	return b, nil
}

// cluster returns the catalogue's cluster, or makes one. It does not begin over the objects of another, whose catalogue
// was lost or is elsewhere: to the new one's sweep they would be litter, as this one's would be to that of the other.
func cluster(ctx context.Context, cat *catalog.Catalog, store objstore.Store) (catalog.Cluster, error) {
	cl, err := cat.ReadCluster(ctx)
	if err == nil {
		return cl, manifest.Check(ctx, store, cl.ID)
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return cl, err
	}
	for _, prefix := range []string{manifest.KeyPrefix, upload.SegmentPrefix, upload.CheckpointPrefix, wal.KeyPrefix, wal.EndPrefix} {
		page, err := store.List(ctx, prefix, "", 1)
		if err != nil {
			return cl, fmt.Errorf("look for objects of a cluster: %w", err)
		}
		if len(page) == 0 {
			continue
		}
		if cl, err = cat.ReadCluster(ctx); errors.Is(err, catalog.ErrNotFound) { // else another broker has just made it
			err = fmt.Errorf("%w: there is %s, and the catalogue is empty. Is it the right one? `varve catalog rebuild` makes a lost one anew; a new cluster needs a place without objects", catalog.ErrForeign, page[0].Key)
		}
		return cl, err
	}
	return cat.Cluster(ctx, DefaultSlots)
}

func (b *Broker) run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends when the last session has left
	defer cancel()
	items := txn.Items{Catalog: b.catalog, Slots: b.cluster.Slots}
	groups := group.New(group.Options{
		Catalog: b.catalog, Config: b.settings, Logger: b.o.Logger,
		Slot: b.groupSlot, Slots: b.ownedSlots, InTxn: items.InTxn, Registerer: b.registerer(),
	})
	txns := txn.New(txn.Options{
		Items: items, Slot: b.slot, Owned: b.ownedSlots, Logs: b.logs, Wake: b.wake, Groups: groups, Cluster: b.view.Now, Self: b.o.Self.ID, Peers: b.peers,
		Config: b.settings, Logger: b.o.Logger, Registerer: b.registerer(),
	})
	server, err := api.New(api.Options{
		Catalog: b.catalog, Cluster: b.view.Now, Logs: b.logs, Groups: groups, Txns: txns, Config: b.settings, Self: b.o.Self, ClusterID: b.cluster.ID,
		Admit: b.admit, Reconcile: b.reconcile, Await: b.await, Arrives: b.arrives, Wake: b.wake, SetLogStart: b.setLogStart, Follow: b.follow(), Logger: b.o.Logger, Registerer: b.registerer(),
	})
	if err != nil {
		return err
	}
	first, err := b.begin(ctx)
	if errors.Is(err, wal.ErrFenced) {
		first, err = b.rejoin(ctx)
	}
	if err != nil {
		return err
	}
	b.manager.Store(first)
	background := new(errgroup.Group)
	run := func(name string, fn func(context.Context) error) {
		background.Go(func() error {
			if err := fn(inner); err != nil && inner.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	run("catalogue", func(ctx context.Context) error {
		return b.catalog.Run(ctx, func(err error) { b.o.Logger.Warn("follow the catalogue", "err", err) })
	})
	run("hints", b.hint)
	run("object cache", b.cache.Run)
	run("cold reader", b.cold.Run)
	run("groups", groups.Run)
	run("transactions", txns.Run)
	run("log starts", b.followStarts)
	run("retention", b.retain)
	run("compaction", b.compact)
	run("sweep", b.sweep)
	run("manifest", b.manifests)
	err = b.sessions(ctx, server, first)
	cancel()
	if b.peers != nil {
		b.peers.Close()
	}
	return errors.Join(err, background.Wait())
}

// follow is what reading for other brokers' consumers takes.
func (b *Broker) follow() *api.Follow {
	if b.peers == nil {
		return nil
	}
	return &api.Follow{Peers: b.peers, Cache: b.cache, Cold: b.cold}
}

func (b *Broker) registerer() prometheus.Registerer {
	if b.o.Registry == nil {
		return nil
	}
	return b.o.Registry
}

// sessions holds one session after the other, beginning with manager, until
// ctx ends, the slots are handed over and the server's answers have left.
func (b *Broker) sessions(ctx context.Context, server *api.Server, manager *slot.Manager) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a session outlives ctx by the time it takes to leave
	defer cancel()
	serve, stopServing := context.WithCancel(inner)
	defer stopServing()
	ended, serving := make(chan error, 1), make(chan error, 1)
	go func() { ended <- manager.Run(inner) }()
	go func() { serving <- server.Serve(serve, b.o.Listener) }()
	if b.o.Ready != nil {
		b.o.Ready(b.cluster.ID)
	}
	leave := ctx.Done()
	for {
		select {
		case <-leave:
			leave = nil
			b.handOver(inner, manager) // while serving: clients are told where to go
			stopServing()
			continue
		case err := <-serving: // nobody is answered any more, or the listener failed
			left := b.leave(inner, manager)
			if left != nil {
				cancel() // what cannot be flushed now is not acknowledged either; the next start seals
			}
			return errors.Join(err, left, <-ended)
		case err := <-ended:
			if !errors.Is(err, wal.ErrFenced) {
				stopServing()
				return errors.Join(fmt.Errorf("session ended: %w", err), <-serving)
			}
			b.o.Logger.Warn("session was fenced: beginning a new one", "session", manager.Session().ID.Epoch)
		}
		next, err := b.rejoin(ctx)
		if err != nil { // ctx has ended, or another process runs this id: nothing is left to leave
			stopServing()
			if ctx.Err() != nil {
				err = nil
			}
			return errors.Join(err, <-serving)
		}
		manager = next
		b.manager.Store(manager)
		go func() { ended <- manager.Run(inner) }()
	}
}

// rejoin begins a session after one was ended, and tries until ctx ends,
// another process is seen to run this broker id, or the cluster has been raised above this program.
func (b *Broker) rejoin(ctx context.Context) (*slot.Manager, error) {
	for {
		select {
		case <-time.After(rejoinDelay):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		m, err := b.begin(ctx)
		if err == nil || errors.Is(err, catalog.ErrSuperseded) || errors.Is(err, catalog.ErrLevel) {
			return m, err
		}
		b.o.Logger.Warn("begin a new session", "err", err)
	}
}

func (b *Broker) begin(ctx context.Context) (*slot.Manager, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	m, err := slot.Begin(ctx, b.slots)
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	return m, slot.Persist(ctx, b.o.Logger, "open logs", func() error { return m.Reconcile(ctx) })
}

// handOver gives the slots to those who live on, and lets clients hear of it:
// who finds the door shut asks for metadata first, which it may do only so often.
func (b *Broker) handOver(ctx context.Context, m *slot.Manager) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	had := len(m.Owned())
	if err := m.HandOver(ctx); err != nil {
		b.o.Logger.Warn("hand slots over before leaving", "err", err)
	}
	if had == 0 || len(m.Owned()) > 0 {
		return
	}
	select {
	case <-time.After(farewell):
	case <-ctx.Done():
	}
}

func (b *Broker) leave(ctx context.Context, m *slot.Manager) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	begin := time.Now()
	if err := m.Leave(ctx); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	b.o.Logger.Info("session left", "session", m.Session().ID.Epoch, "took", time.Since(begin))
	return nil
}

// settings returns the configuration of the moment: what was given at the start, under what the catalogue's snapshot has for
// all brokers.
func (b *Broker) settings() *config.Broker {
	a, by := b.applied.Load(), b.catalog.Topics()
	if a.by == by {
		return a.config
	}
	next := &applied{by, a.config}
	if dynamic := by.BrokerConfigs(""); !maps.Equal(dynamic, a.config.Dynamic) {
		next.config = b.o.Config.With(dynamic)
	}
	b.applied.Store(next)
	return next.config
}

// reconcile brings logs up to the catalogue's snapshot.
func (b *Broker) reconcile(ctx context.Context) error { return b.manager.Load().Reconcile(ctx) }

// await waits until all live brokers act on what this one knows.
func (b *Broker) await(ctx context.Context) error { return b.manager.Load().Await(ctx) }

// arrives waits for a slot that is on its way here.
func (b *Broker) arrives(ctx context.Context, s kafka.Slot) bool {
	return b.manager.Load().Arrives(ctx, s)
}

// wake waits until those of the slots are awake that are dormant here.
func (b *Broker) wake(ctx context.Context, slots iter.Seq[kafka.Slot]) {
	b.manager.Load().Wake(ctx, slots)
}

func (b *Broker) admit(ctx context.Context, n int) error { return b.manager.Load().Admit(ctx, n) }

func (b *Broker) groupSlot(id string) (catalog.Slot, bool) {
	return b.slot(kafka.GroupSlot(id, b.cluster.Slots))
}

func (b *Broker) slot(s kafka.Slot) (catalog.Slot, bool) { return b.manager.Load().Slot(s) }

func (b *Broker) ownedSlots() []catalog.Slot { return b.manager.Load().Owned() }

// setLogStart raises a log's start: in the catalogue first, then for readers.
func (b *Broker) setLogStart(ctx context.Context, l *partition.Log, off kafka.Offset) error {
	slot, ok := b.manager.Load().Slot(l.Slot())
	if !ok {
		return kafka.NotLeaderOrFollower
	}
	if err := b.catalog.SetLogStart(ctx, slot, l.TP(), off); err != nil {
		return err
	}
	l.SetLogStart(off)
	if now, ok := b.logs.Peek(l.TP()); ok { // it may have been dormant, or elsewhere, meanwhile
		now.SetLogStart(off)
	}
	return nil
}
