package slot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// sweep removes what the slots no longer name: checkpoints that older holds
// and today's items do not, the WAL below the least span of each session that is mine or
// sealed, and the items of sealed sessions that nothing names. The sessions are read first:
// one that is sealed then is named by no slot that does not name it already. Then the slots, strongly, after
// the commit that took the names away.
func (k *keeper) sweep(ctx context.Context, older []catalog.Slot) error {
	k.swept = time.Now()
	sessions, err := k.m.o.Catalog.AllSessions(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	today, err := k.m.o.Catalog.Slots(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	named := make(map[string]bool)
	for _, key := range recovery.CheckpointKeys(today) {
		named[key] = true
	}
	var dead []string
	for _, key := range recovery.CheckpointKeys(older) {
		if !named[key] {
			dead = append(dead, key)
		}
	}
	if err := k.remove(ctx, dead); err != nil {
		return err
	}
	for _, s := range sessions {
		err := k.sweepSession(ctx, s, today)
		faster := errors.Is(err, catalog.ErrFenced) || s.ID != k.m.session.ID && errors.Is(err, catalog.ErrNotFound) // somebody else was
		if err != nil && !faster {
			return err
		}
	}
	return nil
}

func (k *keeper) sweepSession(ctx context.Context, s catalog.Session, today []catalog.Slot) error {
	switch {
	case s.ID == k.m.session.ID:
		now, err := k.trim(ctx, s, leastNamed(today, s.ID, k.checkpointed.Durable))
		if err == nil {
			k.m.now.Store(&now)
		}
		return err
	case s.State != catalog.Sealed:
		return nil
	}
	now, err := k.trim(ctx, s, leastNamed(today, s.ID, s.SealedAt))
	if err != nil || isNamed(today, s.ID) {
		return err
	}
	if err := k.m.o.Catalog.RemoveHeartbeat(ctx, s.ID); err != nil {
		return err
	}
	return k.m.o.Catalog.RemoveSession(ctx, now)
}

// trim removes a session's WAL objects below keep: first the session's item
// records how far, on its condition, then the objects go. Seals stay.
func (k *keeper) trim(ctx context.Context, s catalog.Session, keep int64) (now catalog.Session, err error) {
	if keep-1 <= s.Trim {
		return s, nil
	}
	from := s.Trim + 1
	if s.State == catalog.Sealed && k.m.o.Catalog.Level() >= catalog.LevelNames {
		if err := wal.MarkEnd(ctx, k.m.o.Store, originOf(s), s.SealedAt); err != nil {
			return s, fmt.Errorf("trim session %d/%d: %w", s.ID.Broker, s.ID.Epoch, err)
		}
	}
	now, err = k.m.o.Catalog.SetTrim(ctx, s, keep-1)
	if err != nil {
		return s, fmt.Errorf("trim session %d/%d to %d: %w", s.ID.Broker, s.ID.Epoch, keep-1, err)
	}
	keys := make([]string, 0, trimBatch)
	for seq := from; seq < keep; seq++ {
		o := bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Seq: seq}
		keys = append(keys, wal.Key(o))
		if len(keys) == trimBatch || seq == keep-1 {
			if err := k.remove(ctx, keys); err != nil {
				return now, err
			}
			keys = keys[:0]
		}
	}
	return now, nil
}

// remove deletes objects that nothing names. What a crash leaves behind is
// found again by the sweep job.
func (k *keeper) remove(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, key := range keys {
		k.m.o.Cache.Forget(key)
	}
	if err := k.m.o.Store.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("delete %d objects from %s on: %w", len(keys), keys[0], err)
	}
	return nil
}

// leastNamed returns the first WAL object of a session that a slot still
// needs, or end where none names it.
func leastNamed(slots []catalog.Slot, id catalog.SessionID, end int64) int64 {
	least := end
	for _, s := range slots {
		for _, sp := range s.Spans {
			if sp.Session == id {
				least = min(least, sp.From)
			}
		}
	}
	return least
}

// isNamed tells whether a slot still names a session.
func isNamed(slots []catalog.Slot, id catalog.SessionID) bool {
	for _, s := range slots {
		if s.Owner == id || slices.ContainsFunc(s.Spans, func(sp catalog.Span) bool { return sp.Session == id }) {
			return true
		}
	}
	return false
}
