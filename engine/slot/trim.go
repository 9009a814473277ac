package slot

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// sweep removes what the slots no longer name: checkpoints that older holds
// and today's items do not, and the WAL below the least span of each session.
// What is named is read strongly, after the commit that took the names away.
func (k *keeper) sweep(ctx context.Context, older []catalog.Slot) error {
	today, err := k.m.o.Catalog.Slots(ctx)
	if err != nil {
		return fmt.Errorf("sweep: read slots: %w", err)
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
	if err := k.trimOwn(ctx, today); err != nil {
		return err
	}
	for id, s := range k.sessions {
		if s.State != catalog.Sealed || id.Broker != k.m.o.Broker {
			continue
		}
		trimmed, done, err := k.trim(ctx, s, leastNamed(today, id, s.SealedAt))
		if err != nil {
			return err
		}
		k.sessions[id] = trimmed
		if done {
			delete(k.sessions, id)
		}
	}
	return nil
}

func (k *keeper) trimOwn(ctx context.Context, slots []catalog.Slot) error {
	s := <-k.session
	trimmed, _, err := k.trim(ctx, s, leastNamed(slots, s.ID, k.checkpointed.Durable))
	k.session <- trimmed
	return err
}

// trim removes a session's WAL objects below keep: first the session's item
// records how far, on its condition, then the objects go. Seals stay. done
// means that nothing but the seal is left.
func (k *keeper) trim(ctx context.Context, s catalog.Session, keep int64) (now catalog.Session, done bool, err error) {
	done = s.State == catalog.Sealed && keep >= s.SealedAt
	if keep-1 <= s.Trim {
		return s, done, nil
	}
	from := s.Trim + 1
	now, err = k.m.o.Catalog.SetTrim(ctx, s, keep-1)
	if err != nil {
		return s, false, fmt.Errorf("trim session %d/%d to %d: %w", s.ID.Broker, s.ID.Epoch, keep-1, err)
	}
	keys := make([]string, 0, trimBatch)
	for seq := from; seq < keep; seq++ {
		o := bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Seq: seq}
		keys = append(keys, wal.Key(o))
		if len(keys) == trimBatch || seq == keep-1 {
			if err := k.remove(ctx, keys); err != nil {
				return now, false, err
			}
			keys = keys[:0]
		}
	}
	return now, done, nil
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
