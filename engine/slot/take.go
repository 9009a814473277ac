package slot

import (
	"context"
	"errors"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// recipient is another session that slots are taken for.
type recipient struct {
	catalog.Session
	next int64 // where its WAL was at its last heartbeat, or before
}

// recipients returns the other sessions that slots are taken for, and takes those
// out of take that do not run yet, or live no more.
func (m *Manager) recipients(ctx context.Context, take map[kafka.Slot]catalog.SessionID) (map[kafka.Slot]recipient, error) {
	others := make(map[catalog.SessionID]recipient)
	for _, id := range take {
		if id != m.session.ID {
			others[id] = recipient{}
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	err := m.steps.persist(ctx, "read who takes slots", func() error {
		beats, err := m.o.Catalog.Heartbeats(ctx)
		for _, b := range beats {
			if _, ok := others[b.Session]; !ok || b.Counter == 0 || err != nil {
				continue
			}
			var s catalog.Session
			if s, err = m.o.Catalog.Session(ctx, b.Session); errors.Is(err, catalog.ErrNotFound) {
				err = nil
			}
			others[b.Session] = recipient{s, b.WALNext}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	to := make(map[kafka.Slot]recipient)
	for s, id := range take {
		switch {
		case id == m.session.ID:
		case others[id].State == catalog.Live:
			to[s] = others[id]
		default:
			delete(take, s)
		}
	}
	return to, nil
}

// takeAll takes slots of ended sessions for who should have them, and opens its own together: their partitions
// lie in the same WAL objects, which are read once. What an ended session has left does not
// change any more, so it is read while the commits are under way.
func (m *Manager) takeAll(ctx context.Context, take map[kafka.Slot]catalog.SessionID) error {
	to, err := m.recipients(ctx, take)
	if err != nil {
		return err
	}
	if len(take) == 0 {
		return nil
	}
	before, sessions, err := m.readEnded(ctx, slices.Sorted(maps.Keys(take)))
	if err != nil {
		return err
	}
	mine := slices.DeleteFunc(slices.Clone(before), func(s catalog.Slot) bool { return take[s.Slot] != m.session.ID })
	var l left
	ectx, cancel := context.WithCancel(ctx)
	early := new(errgroup.Group)
	early.Go(func() (err error) {
		l, err = m.readLeft(ectx, mine, sessions)
		return err
	})
	defer func() {
		cancel()
		_ = early.Wait() // nobody needs it any more
	}()
	var taken []catalog.Slot
	for _, batch := range takes(before, take) {
		next, takeErr := m.take(ctx, batch, sessions, to)
		taken = append(taken, next...)
		if err = takeErr; err != nil {
			break
		}
	}
	taken = slices.DeleteFunc(taken, func(s catalog.Slot) bool { return s.Owner != m.session.ID })
	if len(taken) == 0 {
		return err
	}
	readErr := early.Wait()
	if readErr != nil { // of those that others took they may have trimmed the WAL
		l, readErr = m.readLeft(ctx, taken, sessions)
	}
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return errors.Join(err, m.install(ctx, taken, l, nil))
}

// takes divides slots into those that one commit takes: it also checks each
// of their former owners, that has ended, and those that get them, that they live.
func takes(slots []catalog.Slot, to map[kafka.Slot]catalog.SessionID) (batches [][]catalog.Slot) {
	var batch []catalog.Slot
	checked := make(map[catalog.SessionID]bool)
	for _, s := range slots {
		checked[s.Owner], checked[to[s.Slot]] = true, true
		if len(batch) > 0 && len(batch)+1+len(checked) > takeBatch {
			batches, batch = append(batches, batch), nil
			clear(checked)
			checked[s.Owner], checked[to[s.Slot]] = true, true
		}
		batch = append(batch, s)
	}
	return append(batches, batch)
}

// take takes slots of ended sessions, those in to for others, but for those that others were faster to
// take: who held more a moment ago may have counted differently.
func (m *Manager) take(ctx context.Context, slots []catalog.Slot, sessions map[catalog.SessionID]catalog.Session, to map[kafka.Slot]recipient) ([]catalog.Slot, error) {
	others := make(map[kafka.Slot]catalog.Session, len(to))
	for s, r := range to {
		others[s] = r.Session
	}
	for len(slots) > 0 {
		next := slices.Clone(slots)
		for i, s := range slots {
			span := catalog.Span{Session: m.session.ID, From: m.wal.Position().Next, To: -1}
			if r, ok := to[s.Slot]; ok {
				span.Session, span.From = r.ID, r.next
			}
			next[i].Spans = append(closeSpans(s.Spans, sessions), span)
		}
		taken, err := m.o.Catalog.TakeSlots(ctx, m.mine(), sessions, next, others)
		if !errors.Is(err, catalog.ErrFenced) {
			return taken, err
		}
		left, err := m.stillSo(ctx, slots)
		if err != nil || len(left) == len(slots) { // then a session is fenced: this one, or one that should get them
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

// readEnded reads slots, but for those whose owners have not ended, and the sessions that they name.
func (m *Manager) readEnded(ctx context.Context, which []kafka.Slot) ([]catalog.Slot, map[catalog.SessionID]catalog.Session, error) {
	slots, sessions, err := m.read(ctx, which)
	slots = slices.DeleteFunc(slots, func(s catalog.Slot) bool {
		return s.Epoch >= 0 && sessions[s.Owner].State != catalog.Sealed
	})
	return slots, sessions, err
}

// prepared is what ended sessions have left of slots that are taken for this one, read meanwhile.
type prepared struct {
	left
	slots map[kafka.Slot]catalog.Slot
}

// prepare reads what ended sessions have left of slots, unless that has been done.
func (m *Manager) prepare(ctx context.Context, which []kafka.Slot) error {
	c := m.o.View.Now()
	fresh := slices.ContainsFunc(which, func(s kafka.Slot) bool {
		before, ok := m.prepared.slots[s]
		return !ok || before.Epoch != c.Owner(s).Epoch
	})
	if len(which) == 0 {
		m.prepared = prepared{}
	}
	if !fresh {
		return nil
	}
	slots, sessions, err := m.readEnded(ctx, which)
	if err != nil {
		return err
	}
	l, err := m.readLeft(ctx, slots, sessions)
	if err != nil {
		return err
	}
	m.prepared = prepared{l, make(map[kafka.Slot]catalog.Slot, len(slots))}
	for _, s := range slots {
		m.prepared.slots[s.Slot] = s
	}
	return nil
}

// has tells whether slots have changed hands but once since they were prepared.
func (p *prepared) has(slots []catalog.Slot) bool {
	return !slices.ContainsFunc(slots, func(s catalog.Slot) bool {
		before, ok := p.slots[s.Slot]
		return !ok || s.Epoch != before.Epoch+1
	})
}
