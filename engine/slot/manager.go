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
	"github.com/varvelog/varve/tiering/wal"
)

// Manager is one session: its WAL, the slots that it owns and the logs of
// their partitions. Make one with Begin, run it, and end it with Leave.
type Manager struct {
	o        Options
	steps    *patience
	session  catalog.Session                 // as it began
	now      atomic.Pointer[catalog.Session] // as last written by itself
	wal      *wal.Writer
	shared   *partition.Shared // by all logs
	set      *partition.Set
	keeper   *keeper
	suspects chan []catalog.SessionID // from beat to own
	applied  atomic.Int64             // the change of the feed that the logs are at
	renew    chan struct{}            // one token: beat renews at once
	looked   atomic.Int64             // when Arrives has read the feed last, in Unix nanoseconds
	left     atomic.Bool              // the session ends by itself
	load     atomic.Pointer[catalog.Load]
	renewed  atomic.Pointer[time.Time] // when the heartbeat was, last
	wakes    chan struct{}             // one token: dormant slots are wanted
	lulls    atomic.Int64              // slots that have become dormant
	sleeping atomic.Int64              // and are so, or were a moment ago
	gaveUp   atomic.Int64              // when somebody has waited for one in vain, in Unix nanoseconds
	done     chan struct{}             // closed when Run has ended

	suspected sightings // own's, as what follows
	alarm     time.Time // when a suspect was last left to its heir
	fenced    sightings // sessions that are fenced, and not sealed
	orphaned  sightings // sessions that have ended, whose slots nobody has taken
	coming    bool      // slots should be this session's, now or soon, that another holds, or takes for it
	prepared  prepared

	reconciling sync.Mutex // serialises what opens and closes logs by a snapshot of the topics; no I/O under it

	mu        sync.Mutex
	unsettled []kafka.TopicPartition      // recovered; what of their tails is sealed already is to be read
	moved     chan struct{}               // closed, and another put in its place, when slots come or go
	slots     map[kafka.Slot]catalog.Slot // held, as last committed
	stopped   map[kafka.Slot]catalog.Slot // on their way to another session
	startsAt  map[kafka.Slot]int64        // the change up to which the log starts of slots were read
	topics    map[kafka.TopicID]*settings // what open logs look at
	dormant   map[kafka.Slot]dormancy     // of the slots that are held, or stopped
	wanted    map[kafka.Slot]bool         // dormant ones that somebody asks for
	woken     map[kafka.Slot]content      // what slots were woken from
}

// Begin begins a session, ends what this broker id left behind, takes the
// slots that should be its own and are nobody's, and recovers their partitions.
// Steps that fail, but not for good, are tried again until ctx ends. The
// caller runs the Manager next; others' slots come while it runs. Errors:
// catalog.ErrSuperseded; wal.ErrFenced: somebody else has ended the session, begin
// another; those of catalogue and store.
func Begin(ctx context.Context, o Options) (*Manager, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	steps := &patience{log: o.Logger}
	mine, err := start(ctx, &o, steps)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		o: o, steps: steps, session: mine, set: o.Logs, suspects: make(chan []catalog.SessionID, 1), renew: make(chan struct{}, 1), done: make(chan struct{}), moved: make(chan struct{}),
		slots: make(map[kafka.Slot]catalog.Slot), stopped: make(map[kafka.Slot]catalog.Slot), startsAt: make(map[kafka.Slot]int64),
		topics: make(map[kafka.TopicID]*settings), wakes: make(chan struct{}, 1),
		dormant: make(map[kafka.Slot]dormancy), wanted: make(map[kafka.Slot]bool), woken: make(map[kafka.Slot]content),
	}
	m.now.Store(&mine)
	m.wal = wal.New(m.walOptions())
	m.shared = &partition.Shared{WAL: m.wal, Cache: o.Cache, Cold: o.Cold, Confirm: m.confirm, Metrics: o.LogMetrics}
	m.keeper = newKeeper(m)
	err = m.renewing(ctx, func() error {
		if err := endOlder(ctx, &o, steps, mine); err != nil {
			return err
		}
		return steps.persist(ctx, "take slots", func() error { return m.turn(ctx) })
	})
	if err != nil {
		m.drop()
		return nil, err
	}
	m.o.Logger.Info("session begun", "broker", mine.ID.Broker, "session", mine.ID.Epoch, "slots", len(m.Owned()))
	return m, nil
}

// readLogStarts reads the log starts of slots, one query each, of those that
// have been owned and have partitions.
func (m *Manager) readLogStarts(ctx context.Context, slots []catalog.Slot) (map[kafka.TopicPartition]kafka.Offset, error) {
	all := make(map[kafka.TopicPartition]kafka.Offset)
	if len(slots) == 0 {
		return all, nil
	}
	used := make(map[kafka.Slot]bool)
	count := m.o.View.Now().Slots()
	for _, t := range m.o.Catalog.Topics().All() {
		for p := range t.Partitions {
			used[kafka.PartitionSlot(t.Name, p, count)] = true
		}
	}
	slots = slices.DeleteFunc(slices.Clone(slots), func(s catalog.Slot) bool { return s.Epoch < 0 || !used[s.Slot] })
	each, err := readEach(ctx, m.steps, "read log starts", numbers(slots), m.o.Catalog.LogStarts)
	if err != nil {
		return nil, err
	}
	for _, starts := range each {
		maps.Copy(all, starts)
	}
	return all, nil
}

// Session returns the session's catalogue entry.
func (m *Manager) Session() catalog.Session { return m.session }

// mine returns the session's entry as this process has last written it.
func (m *Manager) mine() catalog.Session { return *m.now.Load() }

// Logs returns the open logs.
func (m *Manager) Logs() *partition.Set { return m.set }

// Slot returns a slot that is held here, as this session last committed it.
func (m *Manager) Slot(s kafka.Slot) (catalog.Slot, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot, ok := m.slots[s]
	return slot, ok
}

// StartsRead returns the change of the feed up to which the log starts of a slot that is held here were
// read when it was opened.
func (m *Manager) StartsRead(s kafka.Slot) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.startsAt[s]
}

// state returns a slot that is held here, or on its way from here.
func (m *Manager) state(s kafka.Slot) (slot catalog.Slot, here bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slot, ok := m.slots[s]; ok {
		return slot, true
	}
	slot, here = m.stopped[s]
	return slot, here
}

// Admit waits until the WAL has room for n more bytes. While too much of it
// waits to be trimmed, or the disk is too full, it fails, retriably, with kafka.RequestTimedOut.
func (m *Manager) Admit(ctx context.Context, n int) error {
	if m.keeper.backlog(int64(n)) > 1 {
		return kafka.RequestTimedOut
	}
	return m.wal.Admit(ctx, n)
}

func (m *Manager) walOptions() wal.Options {
	cfg := m.o.Config()
	return wal.Options{
		Store: m.o.Store, Fill: m.o.Cache.Fill, Origin: originOf(m.session),
		MaxBytes: cfg.WALMaxBytes, Interval: cfg.WALInterval, InFlight: cfg.WALInFlight, PendingBytes: cfg.WALPendingBytes,
		PutTimeout: callTimeout, Hedge: cfg.WALHedge, Metrics: m.o.WALMetrics, Logger: m.o.Logger,
	}
}

// Run writes the WAL, renews the heartbeat, owns what is the session's and
// keeps the tails short until Leave has sealed the session (nil), somebody else
// has ended it (wal.ErrFenced), or ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := make(chan struct{})
	keep, abandon := context.WithCancel(ctx)
	g.Go(func() error {
		defer close(stop)
		defer abandon() // nothing that the keeper could still commit
		return m.wal.Run(ctx)
	})
	g.Go(func() error { return m.keeper.run(keep) })
	g.Go(func() error { return m.follow(ctx, stop) })
	g.Go(func() error { return m.wake(ctx, stop) })
	g.Go(func() error { return m.spread(ctx, stop) })
	g.Go(func() error { return m.own(ctx, stop) })
	g.Go(func() error { return m.beat(ctx, stop) })
	err := g.Wait()
	m.drop()
	close(m.done)
	return err
}

// confirm returns nil if the session is live, as the catalogue says now.
func (m *Manager) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := m.o.Catalog.Session(ctx, m.session.ID)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && now.State != catalog.Live {
		return wal.ErrFenced
	}
	return err
}

// drop fails everything that waits: the session is over.
func (m *Manager) drop() {
	m.mu.Lock()
	clear(m.slots)
	clear(m.stopped)
	clear(m.dormant)
	m.tell()
	m.mu.Unlock()
	for _, l := range m.set.All() {
		m.set.Remove(l.TP())
		l.Close(kafka.NotLeaderOrFollower)
	}
}

// HandOver tells all that this session will end, and hands its slots over to
// those that live on, if any. It returns when nothing is held here, nobody else is
// there, or ctx ends. Run must be running.
func (m *Manager) HandOver(ctx context.Context) error {
	if !m.heirs() {
		return nil
	}
	if _, err := m.o.Catalog.AnnounceLeave(ctx, m.session); err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	m.keeper.leaving.Store(true)
	m.told(ctx)
	retry := time.NewTicker(m.o.Config().HeartbeatInterval)
	defer retry.Stop()
	for len(m.Owned()) > 0 && m.heirs() {
		err := m.keeper.ask(ctx, m.keeper.balance)
		if ctx.Err() != nil || errors.Is(err, wal.ErrFenced) || errors.Is(err, wal.ErrClosed) {
			return fmt.Errorf("hand over: %w", err)
		}
		if err == nil && len(m.Owned()) == 0 {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// heirs tells whether another session lives on: who leaves as well takes nothing.
func (m *Manager) heirs() bool {
	c := m.o.View.Now()
	return slices.ContainsFunc(c.Live(), func(id catalog.SessionID) bool { return id != m.session.ID && !c.Leaves(id) })
}

// told gives the others a moment to hear that this session leaves, so that they
// do not take it for dead when it listens no more.
func (m *Manager) told(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, m.o.Config().HeartbeatInterval)
	defer cancel()
	if err := m.Await(ctx); err != nil {
		m.o.Logger.Info("not all have heard that this session leaves", "err", err)
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
	m.keeper.leaving.Store(true)
	if !m.keeper.haste() {
		ckptErr = m.keeper.ask(ctx, m.keeper.checkpoint)
	}
	m.left.Store(true)
	at, err := m.wal.Close(ctx)
	if err != nil {
		return errors.Join(ckptErr, fmt.Errorf("leave: seal: %w", err))
	}
	fenced, err := m.o.Catalog.FenceSession(ctx, m.session)
	if err == nil {
		_, err = m.o.Catalog.RecordSeal(ctx, fenced, at)
	}
	if err == nil {
		err = m.o.Catalog.RemoveHeartbeat(ctx, m.session.ID)
	}
	return errors.Join(ckptErr, err)
}

// Owned returns the slots that are held, as last committed, in order.
func (m *Manager) Owned() []catalog.Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Collect(maps.Values(m.slots))
	slices.SortFunc(all, func(a, b catalog.Slot) int { return int(a.Slot - b.Slot) })
	return all
}

// setSlots takes in slots as they were committed.
func (m *Manager) setSlots(slots []catalog.Slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slots {
		if _, ok := m.slots[s.Slot]; ok {
			m.slots[s.Slot] = s
		}
	}
}
