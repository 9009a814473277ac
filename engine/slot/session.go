package slot

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/wal"
)

// endPredecessors ends every session of this broker id that is not sealed
// yet, as anyone may end a suspected one: fence, seal the WAL, record where.
// It returns all sessions of the catalogue, the ended ones as they are now.
func endPredecessors(ctx context.Context, o *Options, steps *patience, sealer bundle.Origin) (map[catalog.SessionID]catalog.Session, error) {
	var all []catalog.Session
	err := steps.persist(ctx, "list sessions", func() (err error) {
		all, err = o.Catalog.AllSessions(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	sessions := make(map[catalog.SessionID]catalog.Session, len(all))
	for _, s := range all {
		if s.ID.Broker == o.Broker && s.State != catalog.Sealed && s.ID.Epoch != sealer.Epoch {
			err := steps.persist(ctx, fmt.Sprintf("end session %d/%d", s.ID.Broker, s.ID.Epoch), func() (err error) {
				s, err = endSession(ctx, o, s, sealer)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		sessions[s.ID] = s
	}
	return sessions, nil
}

// endSession ends one session for good. Each step can be repeated, by anyone.
func endSession(ctx context.Context, o *Options, s catalog.Session, sealer bundle.Origin) (catalog.Session, error) {
	if s.State == catalog.Live {
		fenced, err := o.Catalog.FenceSession(ctx, s)
		if err != nil {
			return s, fmt.Errorf("fence: %w", err)
		}
		s = fenced
	}
	if s.State == catalog.Sealed {
		return s, nil
	}
	at, err := wal.Seal(ctx, o.Store, originOf(s), s.Trim+1, sealer)
	if err != nil {
		return s, fmt.Errorf("seal: %w", err)
	}
	sealed, err := o.Catalog.RecordSeal(ctx, s, at)
	if err != nil {
		return s, fmt.Errorf("record seal at %d: %w", at, err)
	}
	o.Logger.Info("session ended", "broker", s.ID.Broker, "session", s.ID.Epoch, "sealed_at", sealed.SealedAt)
	return sealed, nil
}

// take takes all slots for a new session. It returns them as they were, which
// is what recovery needs, and as they are now.
func take(ctx context.Context, o *Options, steps *patience, mine catalog.Session, ended map[catalog.SessionID]catalog.Session) (before, after []catalog.Slot, err error) {
	err = steps.persist(ctx, "read slots", func() (err error) {
		before, err = o.Catalog.Slots(ctx)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	before = withMissing(before, o.Slots)
	for i := range before {
		s := &before[i]
		if owner, ok := ended[s.Owner]; s.Epoch >= 0 && (!ok || owner.State != catalog.Sealed) {
			return nil, nil, fmt.Errorf("slot %d of broker %d: %w", s.Slot, s.Owner.Broker, ErrForeignSlot)
		}
		closeSpans(s.Spans, ended)
	}
	next := make([]catalog.Slot, len(before))
	for i, s := range before {
		next[i] = s
		next[i].Spans = append(notEmpty(s.Spans), catalog.Span{Session: mine.ID, From: 0, To: -1})
	}
	for lo := 0; lo < len(next); lo += takeBatch {
		hi := min(lo+takeBatch, len(next))
		err := steps.persist(ctx, fmt.Sprintf("take slots %d to %d", lo, hi-1), func() error {
			taken, err := o.Catalog.TakeSlots(ctx, mine, ended, next[lo:hi])
			if err == nil {
				after = append(after, taken...)
			}
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return before, after, nil
}

// withMissing adds the slots that were never owned.
func withMissing(slots []catalog.Slot, count int) []catalog.Slot {
	have := make(map[kafka.Slot]bool, len(slots))
	for _, s := range slots {
		have[s.Slot] = true
	}
	for n := range kafka.Slot(count) {
		if !have[n] {
			slots = append(slots, catalog.Slot{Slot: n, Epoch: -1})
		}
	}
	return slots
}

// closeSpans writes the seals' positions into spans that were open to the seal.
func closeSpans(spans []catalog.Span, ended map[catalog.SessionID]catalog.Session) {
	for i := range spans {
		if s, ok := ended[spans[i].Session]; ok && spans[i].To < 0 && s.State == catalog.Sealed {
			spans[i].To = s.SealedAt
		}
	}
}

func notEmpty(spans []catalog.Span) []catalog.Span {
	var kept []catalog.Span
	for _, sp := range spans {
		if sp.To < 0 || sp.From < sp.To {
			kept = append(kept, sp)
		}
	}
	return kept
}

func originOf(s catalog.Session) bundle.Origin {
	return bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Nonce: s.Nonce}
}
