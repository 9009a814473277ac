package slot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/engine/member"
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
			m.end(ctx, m.toEnd(suspects, time.Now()))
		}
	}
}

// toEnd returns the suspects that this session ends: those whose heir it is, and those that
// have been suspected for a while.
func (m *Manager) toEnd(suspects []catalog.SessionID, now time.Time) (mine []catalog.SessionID) {
	c := m.o.View.Now()
	for _, id := range suspects {
		heir, ok := c.Heir(id, suspects...)
		if !ok || heir == m.session.ID || m.suspected.since(id, now) >= m.o.Config().HeartbeatInterval/2 {
			mine = append(mine, id)
		} else {
			m.alarm = now
		}
	}
	m.suspected = m.suspected.see(suspects, now)
	return mine
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
// nobody's, and open what is mine. wal.ErrFenced: this session has been ended.
func (m *Manager) turn(ctx context.Context) error {
	if m.over() {
		return wal.ErrFenced
	}
	m.finish(ctx)
	begin, before := time.Now(), len(m.Owned())
	take, open, await := m.plan(begin)
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
	return m.prepare(ctx, await)
}

// plan returns the slots that this session should take now, with who should
// have them, those that are its own and not open yet, and those that are taken for it.
//
// An ended session's slots are taken for all by its heir: several that take them beside each other wait for each
// other in the change feed. Where it does not, each takes its own.
func (m *Manager) plan(now time.Time) (take map[kafka.Slot]catalog.SessionID, open, await []kafka.Slot) {
	c, mine := m.o.View.Now(), m.session.ID
	take = make(map[kafka.Slot]catalog.SessionID)
	m.coming = now.Sub(m.alarm) < m.o.Config().HeartbeatInterval
	var orphaned []catalog.SessionID
	for s := range kafka.Slot(c.Slots()) {
		owner := c.Owner(s)
		target, _ := c.Target(s)
		_, here := m.state(s)
		ended := m.ended(owner)
		switch {
		case owner.Epoch >= 0 && owner.Session == mine:
			if !here {
				open = append(open, s)
			}
		case here: // if it is nobody's, it is being given to a session that has ended meanwhile: once that is settled
		case ended && m.claims(c, owner, target, now):
			take[s] = target
		case target == mine:
			m.coming = true
			if ended {
				await = append(await, s)
			}
		}
		if owner.Epoch >= 0 && ended {
			orphaned = append(orphaned, owner.Session)
		}
	}
	m.orphaned = m.orphaned.see(orphaned, now)
	return take, open, await
}

// claims tells whether this session is who takes a slot, which is nobody's, for
// who should have it: for itself also where it does not run yet, so that others leave it out, or where the heir
// has not for a session timeout, though it lives: one that has gone is ended before, and somebody else the heir.
func (m *Manager) claims(c *member.Cluster, owner catalog.Owner, target catalog.SessionID, now time.Time) bool {
	heir, ok := c.Heir(owner.Session)
	switch {
	case !c.Lives(target):
		return false
	case owner.Epoch >= 0 && ok && heir == m.session.ID:
		return true
	}
	late := m.orphaned.since(owner.Session, now) >= m.o.Config().SessionTimeout
	return target == m.session.ID && (owner.Epoch < 0 || !ok || late || m.renewed.Load() == nil)
}

// sightings tell since when sessions have been seen at each look.
type sightings map[catalog.SessionID]time.Time

// see returns the sightings with those that are seen now, and no others.
func (s sightings) see(sessions []catalog.SessionID, now time.Time) sightings {
	next := make(sightings, len(sessions))
	for _, id := range sessions {
		next[id] = now.Add(-s.since(id, now))
	}
	return next
}

// since returns for how long a session has been seen.
func (s sightings) since(id catalog.SessionID, now time.Time) time.Duration {
	if first, ok := s[id]; ok {
		return now.Sub(first)
	}
	return 0
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
	var fenced, late []catalog.SessionID
	for _, s := range m.o.Catalog.Members().Fenced() {
		fenced = append(fenced, s.ID)
		if m.fenced.since(s.ID, now) >= 2*m.o.Config().HeartbeatInterval {
			late = append(late, s.ID)
		}
	}
	m.fenced = m.fenced.see(fenced, now)
	m.end(ctx, late)
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
	if len(now) == 0 {
		return nil
	}
	before := m.prepared
	m.prepared = prepared{}
	if before.has(now) {
		return m.install(ctx, now, before.left, nil)
	}
	l, err := m.readLeft(ctx, now, sessions)
	if err != nil {
		return err
	}
	return m.install(ctx, now, l, nil)
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
	sessions, err := m.readSessions(ctx, items)
	return items, sessions, err
}

// readSessions reads the sessions that slots name, side by side.
func (m *Manager) readSessions(ctx context.Context, items []catalog.Slot) (map[catalog.SessionID]catalog.Session, error) {
	sessions := make(map[catalog.SessionID]catalog.Session)
	for _, s := range items {
		if s.Epoch >= 0 {
			sessions[s.Owner] = catalog.Session{}
		}
		for _, sp := range s.Spans {
			sessions[sp.Session] = catalog.Session{}
		}
	}
	ids := slices.Collect(maps.Keys(sessions))
	each, err := readEach(ctx, m.steps, "read session", ids, m.o.Catalog.Session)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, errStale
	}
	for i, id := range ids {
		sessions[id] = each[i]
	}
	return sessions, err
}

// readSlots reads slots: few of them one by one, many with all others, which
// are one or two pages.
func (m *Manager) readSlots(ctx context.Context, slots []kafka.Slot) ([]catalog.Slot, error) {
	if len(slots) > fewSlots {
		items := make([]catalog.Slot, len(slots))
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
	return readEach(ctx, m.steps, "read slot", slots, m.o.Catalog.Slot)
}

// left is what former owners have left of the partitions of slots.
type left struct {
	tails  map[kafka.TopicPartition]*recovery.Tail
	starts map[kafka.TopicPartition]kafka.Offset // those of logs that do not start at 0
	change int64                                 // of the feed, up to which starts are known
}

// readLeft reads what former owners, which have ended or handed the slots over, have left.
// The snapshot of the topics is at least as new as the slots' change of owner, or the end of their owner, so it has
// every topic that somebody else has served.
func (m *Manager) readLeft(ctx context.Context, slots []catalog.Slot, sessions map[catalog.SessionID]catalog.Session) (l left, err error) {
	l.change = m.o.Catalog.Applied()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		l.tails, err = recovery.Read(ctx, patientStore{m.o.Store, m.steps}, m.o.Catalog, replayed(slots, m.session.ID), sessions)
		return err
	})
	g.Go(func() (err error) {
		l.starts, err = m.readLogStarts(ctx, slots)
		return err
	})
	return l, g.Wait()
}

// install opens the logs of slots that are mine, with what was left of them.
// Log starts that jobs have raised since that was read are read again. still is hold's.
func (m *Manager) install(ctx context.Context, slots []catalog.Slot, l left, still func([]catalog.Slot) []catalog.Slot) error {
	change, topics := m.o.Catalog.Applied(), m.o.Catalog.Topics()
	raised := slices.DeleteFunc(slices.Clone(slots), func(s catalog.Slot) bool { return topics.StartsRaised(s.Slot) <= l.change })
	starts, err := m.readLogStarts(ctx, raised)
	if err != nil {
		return err
	}
	maps.Copy(l.starts, starts)
	l.change = change
	mine := setOf(slots)
	for tp, t := range l.tails {
		if !mine[t.State.Slot] {
			continue
		}
		if err := t.From(l.starts[tp]); err != nil {
			return fmt.Errorf("recover %s: %w", tp, err)
		}
	}
	return m.hold(slots, l, still)
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
