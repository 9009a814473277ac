package slot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// Manager is one session: its WAL, the slots that it owns and the logs of
// their partitions. Make one with Begin, run it, and end it with Leave.
type Manager struct {
	o       Options
	session catalog.Session
	wal     *wal.Writer
	set     *partition.Set
	keeper  *keeper
	leaving atomic.Bool // Leave ends the session itself

	reconciling sync.Mutex // serialises Reconcile; held across the catalogue's in-memory snapshot only

	mu        sync.Mutex
	slots     map[kafka.Slot]catalog.Slot                            // as last committed
	tails     map[kafka.TopicPartition]*recovery.Tail                // recovered, their logs not open yet
	logStarts map[kafka.TopicPartition]kafka.Offset                  // as read when the slots were taken
	topics    map[kafka.TopicPartition]*atomic.Pointer[config.Topic] // what open logs look at
}

// Begin ends what this broker id left behind, starts a session, takes all
// slots and recovers their partitions. Steps that fail, but not for good, are
// tried again until ctx ends. The caller runs the Manager next.
func Begin(ctx context.Context, o Options) (*Manager, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	steps := &patience{log: o.Logger}
	var mine catalog.Session
	err := steps.persist(ctx, "start session", func() (err error) {
		mine, err = o.Catalog.StartSession(ctx, o.Broker, o.Addr, o.Rack)
		return err
	})
	if err != nil {
		return nil, err
	}
	sessions, err := endPredecessors(ctx, &o, steps, originOf(mine))
	if err != nil {
		return nil, err
	}
	before, after, err := take(ctx, &o, steps, mine, sessions)
	if err != nil {
		return nil, err
	}
	var tails map[kafka.TopicPartition]*recovery.Tail
	err = steps.persist(ctx, "recover", func() (err error) {
		tails, err = recovery.Read(ctx, patientStore{o.Store, steps}, o.Catalog, before, sessions)
		return err
	})
	if err != nil {
		return nil, err
	}
	m := &Manager{
		o: o, session: mine, set: o.Logs, tails: tails,
		slots:  make(map[kafka.Slot]catalog.Slot, len(after)),
		topics: make(map[kafka.TopicPartition]*atomic.Pointer[config.Topic]),
	}
	for _, s := range after {
		m.slots[s.Slot] = s
	}
	if m.logStarts, err = readLogStarts(ctx, &o, steps, after); err != nil {
		return nil, err
	}
	m.wal = wal.New(m.walOptions())
	m.keeper = newKeeper(m, sessions)
	m.o.Logger.Info("session begun", "broker", mine.ID.Broker, "session", mine.ID.Epoch, "slots", len(after), "recovered_partitions", len(tails))
	return m, nil
}

func readLogStarts(ctx context.Context, o *Options, steps *patience, slots []catalog.Slot) (map[kafka.TopicPartition]kafka.Offset, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(beginReads)
	found := make([]map[kafka.TopicPartition]kafka.Offset, len(slots))
	for i, s := range slots {
		if s.Epoch == 0 { // never owned before, so nothing was ever written in it
			continue
		}
		g.Go(func() error {
			return steps.persist(ctx, fmt.Sprintf("read log starts of slot %d", s.Slot), func() (err error) {
				found[i], err = o.Catalog.LogStarts(ctx, s.Slot)
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := make(map[kafka.TopicPartition]kafka.Offset)
	for _, starts := range found {
		maps.Copy(all, starts)
	}
	return all, nil
}

// Session returns the session's catalogue entry.
func (m *Manager) Session() catalog.Session { return m.session }

// Logs returns the open logs.
func (m *Manager) Logs() *partition.Set { return m.set }

// Slot returns a slot as this session last committed it.
func (m *Manager) Slot(s kafka.Slot) (catalog.Slot, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot, ok := m.slots[s]
	return slot, ok
}

// Admit waits until the WAL has room for n more bytes. While too much of it
// waits to be trimmed it fails, retriably, with kafka.RequestTimedOut.
func (m *Manager) Admit(ctx context.Context, n int) error {
	if m.keeper.backlog() > 1 {
		return kafka.RequestTimedOut
	}
	return m.wal.Admit(ctx, n)
}

func (m *Manager) walOptions() wal.Options {
	cfg := m.o.Config()
	return wal.Options{
		Store: m.o.Store, Fill: m.o.Cache.Fill, Origin: originOf(m.session),
		MaxBytes: cfg.WALMaxBytes, Interval: cfg.WALInterval, InFlight: cfg.WALInFlight, PendingBytes: cfg.WALPendingBytes,
		PutTimeout: callTimeout, Metrics: m.o.WALMetrics, Logger: m.o.Logger,
	}
}

// Reconcile opens the logs of partitions that the catalogue's snapshot has
// and this session does not, closes those of deleted topics, and hands changed configs on.
func (m *Manager) Reconcile(context.Context) error {
	m.reconciling.Lock()
	defer m.reconciling.Unlock()
	want := make(map[kafka.TopicPartition]bool)
	for _, t := range m.o.Catalog.Topics().All() {
		cfg := config.EffectiveTopic(m.o.Config(), t.Configs)
		for p := range t.Partitions {
			tp := kafka.TopicPartition{Topic: t.ID, Partition: p}
			want[tp] = true
			if err := m.open(tp, t.Name, cfg); err != nil {
				return fmt.Errorf("open %s-%d: %w", t.Name, p, err)
			}
		}
	}
	for _, l := range m.set.All() {
		if tp := l.TP(); !want[tp] {
			m.set.Remove(tp)
			l.Close(kafka.UnknownTopicOrPartition)
			m.mu.Lock()
			delete(m.topics, tp)
			m.mu.Unlock()
		}
	}
	return nil
}

func (m *Manager) open(tp kafka.TopicPartition, topic string, cfg config.Topic) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.topics[tp]; p != nil {
		p.Store(&cfg)
		return nil
	}
	slot := kafka.PartitionSlot(topic, tp.Partition, m.o.Slots)
	owned, ok := m.slots[slot]
	if !ok {
		return nil
	}
	t := m.tails[tp]
	if t == nil {
		t = &recovery.Tail{State: bundle.State{Slot: slot, TP: tp}}
	}
	delete(m.tails, tp)
	current := new(atomic.Pointer[config.Topic])
	current.Store(&cfg)
	m.topics[tp] = current
	m.set.Add(partition.New(partition.Options{
		TP: tp, Topic: topic, Slot: slot, Epoch: owned.Epoch,
		WAL: m.wal, Cache: m.o.Cache, Cold: m.o.Cold,
		Config:  func() config.Topic { return *current.Load() },
		Confirm: m.confirm,
		State:   t.State, Hot: t.Hot, LogStart: m.logStarts[tp], Metrics: m.o.LogMetrics,
		ProducerExpiration: m.o.Config().ProducerIDExpiration,
	}))
	return nil
}

// Run writes the WAL and keeps the tails short until Leave has sealed the
// session (nil), somebody else has (wal.ErrFenced), or ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := make(chan struct{})
	g.Go(func() error {
		defer close(stop)
		return m.wal.Run(ctx)
	})
	g.Go(func() error { return m.keeper.run(ctx, stop) })
	g.Go(func() error { return m.follow(ctx, stop) })
	g.Go(func() error { return m.watch(ctx, stop) })
	err := g.Wait()
	m.drop()
	return err
}

// follow reconciles at each change of the topics.
func (m *Manager) follow(ctx context.Context, stop <-chan struct{}) error {
	for {
		changed := m.o.Catalog.Changed()
		if err := m.Reconcile(ctx); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stop:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// watch ends a session that somebody has fenced. One that writes meets the
// seal; one that is idle, or that was fenced by somebody who died before the seal, would
// go on refusing what needs the catalogue.
func (m *Manager) watch(ctx context.Context, stop <-chan struct{}) error {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return nil
		case <-ctx.Done():
			return nil
		}
		gone, err := m.fenced(ctx)
		switch {
		case gone && m.leaving.Load():
		case gone:
			m.o.Logger.Warn("session was fenced by somebody else", "session", m.session.ID.Epoch)
			return wal.ErrFenced
		case err != nil && ctx.Err() == nil:
			m.o.Logger.Warn("look after the session", "err", err)
		}
	}
}

// fenced tells whether the session is live no more.
func (m *Manager) fenced(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := m.o.Catalog.Session(ctx, m.session.ID)
	if err != nil {
		return errors.Is(err, catalog.ErrNotFound), err
	}
	return now.State != catalog.Live, nil
}

// confirm returns nil if the session is live.
func (m *Manager) confirm(ctx context.Context) error {
	gone, err := m.fenced(ctx)
	if gone {
		return wal.ErrFenced
	}
	return err
}

// drop fails everything that waits: the session is over.
func (m *Manager) drop() {
	for _, l := range m.set.All() {
		m.set.Remove(l.TP())
		l.Close(kafka.NotLeaderOrFollower)
	}
}

// Leave makes everything durable, writes a last checkpoint where the tails are
// short, seals the session and records the seal. After a checkpoint the next
// session replays nothing; without one it reads the footers that are there, which is quick
// as well, while sealing long tails now would keep the broker from leaving.
// Appends fail from then on. Run must be running.
func (m *Manager) Leave(ctx context.Context) error {
	if err := m.wal.Flush(ctx); err != nil {
		return fmt.Errorf("leave: flush: %w", err)
	}
	var ckptErr error
	if m.wal.Position().Bytes-m.keeper.trimmed.Load() <= leaveBytes {
		ckptErr = m.keeper.ask(ctx)
	}
	m.leaving.Store(true)
	at, err := m.wal.Close(ctx)
	if err != nil {
		return errors.Join(ckptErr, fmt.Errorf("leave: seal: %w", err))
	}
	fenced, err := m.o.Catalog.FenceSession(ctx, m.keeper.mine())
	if err == nil {
		_, err = m.o.Catalog.RecordSeal(ctx, fenced, at)
	}
	return errors.Join(ckptErr, err)
}

// Owned returns the slots as last committed, in order.
func (m *Manager) Owned() []catalog.Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Collect(maps.Values(m.slots))
	slices.SortFunc(all, func(a, b catalog.Slot) int { return int(a.Slot - b.Slot) })
	return all
}

func (m *Manager) setSlots(slots []catalog.Slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slots {
		m.slots[s.Slot] = s
	}
}
