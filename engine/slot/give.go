package slot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

const (
	handOverTimeout = 10 * time.Second // of the commit; then it is unknown, and settled
	settlePause     = 100 * time.Millisecond
	startPause      = 100 * time.Millisecond // until a session that has begun is looked at again
)

// balance hands over the slots that others should own.
func (k *keeper) balance(ctx context.Context) error {
	k.again = nil
	moves := k.m.surplus()
	k.moving.Store(len(moves) > 0) // until the next look finds all where it should be
	if len(moves) == 0 || k.waits() {
		return nil
	}
	bctx, cancel := context.WithTimeout(ctx, callTimeout)
	beats, err := k.m.o.Catalog.Heartbeats(bctx)
	cancel()
	if err != nil {
		return fmt.Errorf("balance: %w", err)
	}
	if k.m.wal.Position().Durable-k.checkpointed.Durable > moveObjects && !k.haste() {
		if err := k.checkpoint(ctx); err != nil { // while appending, so that the rest is short
			return fmt.Errorf("balance: %w", err)
		}
	}
	for _, b := range beats {
		if b.Counter == 0 && len(moves[b.Session]) > 0 { // it does not run yet
			k.again = time.After(startPause)
			continue
		}
		for batch := range slices.Chunk(moves[b.Session], moveBatch) {
			if k.waits() { // a session has ended meanwhile
				return nil
			}
			if err := k.give(ctx, b, batch); err != nil {
				return fmt.Errorf("hand slots over to broker %d: %w", b.Session.Broker, err)
			}
		}
	}
	return nil
}

// waits tells whether a move is put off until all slots have a live owner: a
// move changes whose the ownerless ones should be, and who takes them would meet others who count differently.
// The change of the last one's owner has this session look again.
func (k *keeper) waits() bool { return !k.leaving.Load() && k.m.o.View.Now().Ownerless() }

// surplus returns the slots held here that live sessions should own.
func (m *Manager) surplus() map[catalog.SessionID][]kafka.Slot {
	c := m.o.View.Now()
	if !c.Lives(m.session.ID) {
		return nil
	}
	moves := make(map[catalog.SessionID][]kafka.Slot)
	for _, s := range m.Owned() {
		if to, ok := c.Target(s.Slot); ok && to != m.session.ID {
			moves[to] = append(moves[to], s.Slot)
		}
	}
	return moves
}

// give hands slots over: stop appending, make all durable, commit the owner
// with the exact end of the span. What the commit's outcome leaves open is settled before anything is appended.
func (k *keeper) give(ctx context.Context, to catalog.Heartbeat, which []kafka.Slot) error {
	m := k.m
	fctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	target, err := m.o.Catalog.Session(fctx, to.Session)
	if err != nil {
		return err
	}
	slots, logs := m.stop(which)
	if err := m.wal.Flush(fctx); err != nil { // nothing was sent
		m.resume(slots, logs)
		return err
	}
	_, err = m.o.Catalog.HandOver(fctx, m.mine(), target, handedOver(slots, m.session.ID, m.wal.Position().Durable, to))
	switch {
	case err == nil:
		m.forget(slots, logs)
		m.o.Logger.Info("slots handed over", "slots", len(slots), "to", to.Session.Broker)
		return nil
	case errors.Is(err, catalog.ErrFenced): // nothing was written
		m.resume(slots, logs)
		return err
	}
	m.o.Logger.Warn("hand-over is settled, its outcome being unknown", "to", to.Session.Broker, "err", err)
	return k.settle(ctx, slots, logs)
}

// handedOver returns slots as the target gets them: my span ends before end,
// and the target's begins where its WAL was at its last heartbeat, or later.
func handedOver(slots []catalog.Slot, mine catalog.SessionID, end int64, to catalog.Heartbeat) []catalog.Slot {
	next := slices.Clone(slots)
	for i := range next {
		var spans []catalog.Span
		for _, sp := range next[i].Spans {
			if sp.Session == mine && sp.To < 0 {
				sp.To = end
			}
			if sp.To < 0 || sp.From < sp.To {
				spans = append(spans, sp)
			}
		}
		next[i].Spans = append(spans, catalog.Span{Session: to.Session, From: to.WALNext, To: -1})
	}
	return next
}

// settle finds out what became of a hand-over: it goes on until the slots are
// read as handed over, or this session has written them itself, after which no hand-over can land.
func (k *keeper) settle(ctx context.Context, slots []catalog.Slot, logs []*partition.Log) error {
	m := k.m
	which := numbers(slots)
	for {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		now, _, err := m.read(cctx, which)
		// This session's own write raises the epoch by one. More means that they were handed
		// over, and back: what is here of them is older than what the target wrote.
		if err == nil && (now[0].Owner != m.session.ID || now[0].Epoch > slots[0].Epoch+1) {
			cancel()
			m.forget(slots, logs)
			return nil
		}
		if err == nil && now[0].Epoch == slots[0].Epoch {
			now, err = m.o.Catalog.KeepSlots(cctx, m.mine(), now)
		}
		cancel()
		if err == nil {
			m.reopen(now, logs)
			return nil
		}
		if ctx.Err() != nil || m.over() {
			return err // what was stopped stays so, to the session's end
		}
		m.o.Logger.Warn("settle a hand-over", "err", err)
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
		}
	}
}

// stop stops appending to the slots' logs. What was appended becomes durable
// still, and is read.
func (m *Manager) stop(which []kafka.Slot) (slots []catalog.Slot, logs []*partition.Log) {
	m.mu.Lock()
	in := make(map[kafka.Slot]bool, len(which))
	for _, s := range which {
		slots = append(slots, m.slots[s])
		m.stopped[s], in[s] = m.slots[s], true
		delete(m.slots, s)
	}
	m.mu.Unlock()
	for _, l := range m.set.All() {
		if in[l.Slot()] {
			l.Stop(kafka.NotLeaderOrFollower)
			logs = append(logs, l)
		}
	}
	return slots, logs
}

// resume goes on with slots whose hand-over was not sent, or refused.
func (m *Manager) resume(slots []catalog.Slot, logs []*partition.Log) {
	for _, l := range logs {
		l.Resume()
	}
	m.keep(slots)
}

// reopen goes on with slots at a new epoch.
func (m *Manager) reopen(slots []catalog.Slot, logs []*partition.Log) {
	epochs := make(map[kafka.Slot]kafka.LeaderEpoch, len(slots))
	for _, s := range slots {
		epochs[s.Slot] = s.Epoch
	}
	m.reconciling.Lock()
	for _, l := range logs {
		if _, ok := m.set.Peek(l.TP()); ok { // else its topic was deleted
			m.set.Add(l.Reopened(epochs[l.Slot()]))
		}
		l.Close(kafka.NotLeaderOrFollower)
	}
	m.reconciling.Unlock()
	m.keep(slots)
}

// keep holds stopped slots again, with what became of their topics meanwhile.
func (m *Manager) keep(slots []catalog.Slot) {
	m.mu.Lock()
	for _, s := range slots {
		delete(m.stopped, s.Slot)
		m.slots[s.Slot] = s
	}
	m.tell()
	m.mu.Unlock()
	_ = m.Reconcile(context.Background())
}

// forget ends what is here of slots that are somebody else's.
func (m *Manager) forget(slots []catalog.Slot, logs []*partition.Log) {
	for _, l := range logs {
		m.closeLog(l, kafka.NotLeaderOrFollower)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slots {
		delete(m.stopped, s.Slot)
		delete(m.dormant, s.Slot)
	}
	m.tell()
}
