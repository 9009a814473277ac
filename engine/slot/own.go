package slot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// own takes turns at each change of the members, and ends who is suspected,
// until stop closes (nil), the session is found ended (wal.ErrFenced) or ctx ends.
func (m *Manager) own(ctx context.Context, stop <-chan struct{}) error {
	retry := time.NewTicker(m.o.Config().HeartbeatInterval)
	defer retry.Stop()
	var expected expectation
	for {
		changed := m.o.Catalog.Changed()
		if err := m.turn(ctx); err != nil {
			if errors.Is(err, wal.ErrFenced) {
				return err
			}
			if ctx.Err() == nil {
				m.o.Logger.Warn("own what is mine", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-stop:
			return nil
		case <-changed:
		case <-retry.C:
		case <-expected.look(m.coming):
			lctx, cancel := context.WithTimeout(ctx, callTimeout)
			m.lookAgain(lctx)
			cancel()
		case suspects := <-m.suspects:
			m.end(ctx, suspects)
		}
	}
}

// end ends sessions that are suspected, or fenced already.
func (m *Manager) end(ctx context.Context, sessions []catalog.SessionID) {
	for _, id := range sessions {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		if err := endSession(ctx, &m.o, id, originOf(m.session)); err != nil {
			m.o.Logger.Warn("end suspected session", "err", err)
		}
		cancel()
	}
}

// turn does what there is to do now, by the newest snapshot of the members:
// finish the end of sessions that somebody else has fenced, take slots that are
// nobody's and should be mine, and open what is mine. wal.ErrFenced: this
// session has been ended.
func (m *Manager) turn(ctx context.Context) error {
	if m.over() {
		return wal.ErrFenced
	}
	m.finish(ctx)
	begin, before := time.Now(), len(m.Owned())
	c := m.o.View.Now()
	var take, open []kafka.Slot
	m.coming = false
	for s := range kafka.Slot(c.Slots()) {
		owner := c.Owner(s)
		target, _ := c.Target(s)
		switch _, here := m.state(s); {
		case owner.Epoch >= 0 && owner.Session == m.session.ID:
			if !here {
				open = append(open, s)
			}
		case target == m.session.ID && m.ended(owner):
			if !here { // else it is being given to a session that has ended meanwhile: once that is settled
				take = append(take, s)
			}
		case target == m.session.ID && c.Lives(owner.Session):
			m.coming = true
		}
	}
	if err := m.open(ctx, open); err != nil {
		return err
	}
	if err := m.takeAll(ctx, take); err != nil {
		return err
	}
	if n := len(take) + len(open); n > 0 {
		m.o.Logger.Info("slots taken", "taken", len(take), "given", len(open), "held", len(m.Owned()), "before", before, "took", time.Since(begin))
	}
	m.keeper.look()
	return nil
}

// over tells whether the session has been ended by somebody else.
func (m *Manager) over() bool {
	now, ok := m.o.Catalog.Members().Session(m.session.ID)
	return (!ok || now.State != catalog.Live) && !m.left.Load()
}

// ended tells whether a slot is nobody's: never owned, or its owner's session is sealed.
func (m *Manager) ended(o catalog.Owner) bool {
	_, ok := m.o.Catalog.Members().Session(o.Session)
	return o.Epoch < 0 || !ok
}

// finish ends sessions that somebody has fenced and not sealed for a while:
// who was at it may have gone.
func (m *Manager) finish(ctx context.Context) {
	now := time.Now()
	fenced := make(map[catalog.SessionID]time.Time)
	var late []catalog.SessionID
	for _, s := range m.o.Catalog.Members().Fenced() {
		since, ok := m.fenced[s.ID]
		if !ok {
			since = now
		}
		fenced[s.ID] = since
		if now.Sub(since) >= 2*m.o.Config().HeartbeatInterval {
			late = append(late, s.ID)
		}
	}
	m.fenced = fenced
	m.end(ctx, late)
}

// takeAll takes slots of ended sessions, and opens all together: their partitions
// lie in the same WAL objects, which are read once. What an ended session has left does not
// change any more, so it is read while the commits are under way.
func (m *Manager) takeAll(ctx context.Context, slots []kafka.Slot) error {
	if len(slots) == 0 {
		return nil
	}
	before, sessions, err := m.read(ctx, slots)
	if err != nil {
		return err
	}
	before = slices.DeleteFunc(before, func(s catalog.Slot) bool {
		return s.Epoch >= 0 && sessions[s.Owner].State != catalog.Sealed
	})
	var tails tailsOf
	ectx, cancel := context.WithCancel(ctx)
	early := new(errgroup.Group)
	early.Go(func() (err error) {
		tails, err = m.readTails(ectx, before, sessions)
		return err
	})
	defer func() {
		cancel()
		_ = early.Wait() // nobody needs it any more
	}()
	var taken []catalog.Slot
	for _, batch := range takes(before) {
		next, takeErr := m.take(ctx, batch, sessions)
		taken = append(taken, next...)
		if err = takeErr; err != nil {
			break
		}
	}
	return errors.Join(err, m.install(ctx, taken, func(ctx context.Context) (tailsOf, error) {
		if early.Wait() == nil {
			return tails, nil
		}
		return m.readTails(ctx, taken, sessions) // of those that others took they may have trimmed the WAL
	}))
}

// takes divides slots into those that one commit takes: it also checks that each
// of their former owners has ended.
func takes(slots []catalog.Slot) (batches [][]catalog.Slot) {
	var batch []catalog.Slot
	owners := make(map[catalog.SessionID]bool)
	for _, s := range slots {
		owners[s.Owner] = true
		if len(batch) > 0 && len(batch)+1+len(owners) > takeBatch {
			batches, batch = append(batches, batch), nil
			clear(owners)
			owners[s.Owner] = true
		}
		batch = append(batch, s)
	}
	return append(batches, batch)
}

// take takes slots of ended sessions, but for those that others were faster to
// take: who held more a moment ago may have counted differently.
func (m *Manager) take(ctx context.Context, slots []catalog.Slot, sessions map[catalog.SessionID]catalog.Session) ([]catalog.Slot, error) {
	from := m.wal.Position().Next
	for len(slots) > 0 {
		next := slices.Clone(slots)
		for i, s := range slots {
			next[i].Spans = append(closeSpans(s.Spans, sessions), catalog.Span{Session: m.session.ID, From: from, To: -1})
		}
		taken, err := m.o.Catalog.TakeSlots(ctx, m.mine(), sessions, next)
		if !errors.Is(err, catalog.ErrFenced) {
			return taken, err
		}
		left, err := m.stillSo(ctx, slots)
		if err != nil || len(left) == len(slots) { // then it is this session that is fenced
			return nil, err
		}
		slots = left
	}
	return nil, nil
}

// stillSo returns those of the slots that nobody has written since they were read.
func (m *Manager) stillSo(ctx context.Context, slots []catalog.Slot) ([]catalog.Slot, error) {
	now, err := m.readSlots(ctx, numbers(slots))
	if err != nil {
		return nil, err
	}
	var left []catalog.Slot
	for i, s := range slots {
		if now[i].SameAs(s) {
			left = append(left, s)
		}
	}
	return left, nil
}

// open opens slots that the catalogue says are mine: handed over to me, or
// taken by a commit whose outcome I did not learn.
func (m *Manager) open(ctx context.Context, slots []kafka.Slot) error {
	if len(slots) == 0 {
		return nil
	}
	now, sessions, err := m.read(ctx, slots)
	if err != nil {
		return err
	}
	now = slices.DeleteFunc(now, func(s catalog.Slot) bool { return s.Epoch < 0 || s.Owner != m.session.ID })
	return m.install(ctx, now, func(ctx context.Context) (tailsOf, error) { return m.readTails(ctx, now, sessions) })
}

// errStale means that a slot was read before it ceased to name a session that
// is gone now: the next attempt sees it as it is.
var errStale = errors.New("slot: a session that is named has gone")

// read reads slots, and the sessions that they name, as they are now.
func (m *Manager) read(ctx context.Context, slots []kafka.Slot) ([]catalog.Slot, map[catalog.SessionID]catalog.Session, error) {
	items, err := m.readSlots(ctx, slots)
	if err != nil {
		return nil, nil, err
	}
	sessions := make(map[catalog.SessionID]catalog.Session)
	add := func(id catalog.SessionID) error {
		if _, ok := sessions[id]; ok {
			return nil
		}
		err := m.steps.persist(ctx, "read session", func() (err error) {
			sessions[id], err = m.o.Catalog.Session(ctx, id)
			return err
		})
		if errors.Is(err, catalog.ErrNotFound) {
			return errStale
		}
		return err
	}
	for _, s := range items {
		if s.Epoch < 0 {
			continue
		}
		if err := add(s.Owner); err != nil {
			return nil, nil, fmt.Errorf("owner of slot %d: %w", s.Slot, err)
		}
		for _, sp := range s.Spans {
			if err := add(sp.Session); err != nil {
				return nil, nil, fmt.Errorf("span of slot %d: %w", s.Slot, err)
			}
		}
	}
	return items, sessions, nil
}

// readSlots reads slots: few of them one by one, many with all others, which
// are one or two pages.
func (m *Manager) readSlots(ctx context.Context, slots []kafka.Slot) ([]catalog.Slot, error) {
	items := make([]catalog.Slot, len(slots))
	if len(slots) > fewSlots {
		var all []catalog.Slot
		err := m.steps.persist(ctx, "read slots", func() (err error) {
			all, err = m.o.Catalog.Slots(ctx)
			return err
		})
		byNumber := make(map[kafka.Slot]catalog.Slot, len(all))
		for _, s := range all {
			byNumber[s.Slot] = s
		}
		for i, s := range slots {
			var owned bool
			if items[i], owned = byNumber[s]; !owned {
				items[i] = catalog.Slot{Slot: s, Epoch: -1}
			}
		}
		return items, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, s := range slots {
		g.Go(func() error {
			return m.steps.persist(ctx, "read slot", func() (err error) {
				items[i], err = m.o.Catalog.Slot(ctx, s)
				return err
			})
		})
	}
	return items, g.Wait()
}

// tailsOf is what former owners have left of partitions.
type tailsOf map[kafka.TopicPartition]*recovery.Tail

// readTails reads what former owners have left of the partitions of slots.
// The snapshot of the topics is at least as new as the slots' change of owner, or the end of their owner, so it has
// every topic that somebody else has served.
func (m *Manager) readTails(ctx context.Context, slots []catalog.Slot, sessions map[catalog.SessionID]catalog.Session) (tailsOf, error) {
	return recovery.Read(ctx, patientStore{m.o.Store, m.steps}, m.o.Catalog, replayed(slots, m.session.ID), sessions)
}

// install opens the logs of slots that are mine, with the tails that were read. Until they were mine
// their log starts could be raised, so these are read now.
func (m *Manager) install(ctx context.Context, slots []catalog.Slot, read func(ctx context.Context) (tailsOf, error)) error {
	if len(slots) == 0 {
		return nil
	}
	var tails tailsOf
	var starts map[kafka.TopicPartition]kafka.Offset
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		tails, err = read(gctx)
		return err
	})
	g.Go(func() (err error) {
		starts, err = m.readLogStarts(gctx, slots)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	mine := setOf(slots)
	for tp, t := range tails {
		if !mine[t.State.Slot] {
			continue
		}
		if err := t.From(starts[tp]); err != nil {
			return fmt.Errorf("recover %s: %w", tp, err)
		}
	}
	m.hold(slots, tails, starts)
	return nil
}

// replayed returns the slots with the spans that have to be replayed: not the
// one that has just begun in my own WAL.
func replayed(slots []catalog.Slot, mine catalog.SessionID) []catalog.Slot {
	out := slices.Clone(slots)
	for i := range out {
		out[i].Spans = slices.DeleteFunc(slices.Clone(out[i].Spans), func(sp catalog.Span) bool {
			return sp.Session == mine && sp.To < 0
		})
	}
	return out
}
