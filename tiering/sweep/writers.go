package sweep

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/compaction"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/wal"
)

// Writers is what the catalogue says of all that ever wrote objects, and what the
// slots name. What it says of ended writers holds for ever: none comes back into
// office, and what they wrote loses references but gets none.
type Writers struct {
	sessions map[catalog.SessionID]catalog.Session
	highest  map[int32]int64             // session epoch of each broker
	lease    int64                       // epoch of compaction's
	owners   map[catalog.SessionID]bool  // of slots
	spanned  map[catalog.SessionID]bool  // whose WAL a slot's spans name
	keep     map[catalog.SessionID]int64 // the first WAL object of a sealed session that a slot needs
	named    map[string]bool             // checkpoints that slots name, and objects whose deletion is noted
	deleted  map[kafka.TopicID]bool      // topics that retention cleans up
}

// ReadWriters reads the writers, then the slots: in this order, and strongly.
func ReadWriters(ctx context.Context, cat *catalog.Catalog) (*Writers, error) {
	w := &Writers{
		sessions: make(map[catalog.SessionID]catalog.Session), owners: make(map[catalog.SessionID]bool), spanned: make(map[catalog.SessionID]bool),
		keep: make(map[catalog.SessionID]int64), named: make(map[string]bool), deleted: make(map[kafka.TopicID]bool),
	}
	for _, read := range []func(context.Context, *catalog.Catalog) error{w.readSessions, w.readLease, w.readSlots, w.readDeleted} {
		if err := bounded(ctx, func(ctx context.Context) error { return read(ctx, cat) }); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *Writers) readSessions(ctx context.Context, cat *catalog.Catalog) (err error) {
	if w.highest, err = cat.SessionEpochs(ctx); err != nil {
		return err
	}
	all, err := cat.AllSessions(ctx)
	for _, s := range all {
		w.sessions[s.ID] = s
		if s.State == catalog.Sealed {
			w.keep[s.ID] = s.SealedAt
		}
	}
	return err
}

func (w *Writers) readLease(ctx context.Context, cat *catalog.Catalog) error {
	lease, err := cat.Lease(ctx, compaction.JobName)
	w.lease = lease.Epoch
	return err
}

func (w *Writers) readSlots(ctx context.Context, cat *catalog.Catalog) error {
	slots, err := cat.Slots(ctx)
	for _, s := range slots {
		w.owners[s.Owner] = true
		for _, c := range s.Checkpoints {
			w.named[c.Key] = true
		}
		for _, sp := range s.Spans {
			w.spanned[sp.Session] = true
			if n, ok := w.keep[sp.Session]; ok {
				w.keep[sp.Session] = min(n, sp.From)
			}
		}
	}
	return err
}

// readDeleted reads what retention is to delete: topics, and noted objects, as
// far as they fit. One that it gets to first does no harm.
func (w *Writers) readDeleted(ctx context.Context, cat *catalog.Catalog) error {
	topics, err := cat.DeletedTopics(ctx)
	if err != nil {
		return err
	}
	for _, t := range topics {
		w.deleted[t.ID] = true
	}
	notes, err := cat.DeadObjects(ctx, time.Unix(1<<40, 0), maxNotes)
	for _, n := range notes {
		for _, key := range n.Keys {
			w.named[key] = true
		}
	}
	return err
}

// trim records for each sealed session what no slot needs of its WAL, so that
// nobody looks there for records any more.
func (w *Writers) trim(ctx context.Context, cat *catalog.Catalog, store objstore.Store) error {
	if err := bounded(ctx, cat.Refresh); err != nil {
		return err
	}
	for id, keep := range w.keep {
		err := bounded(ctx, func(ctx context.Context) error {
			s := w.sessions[id]
			if keep-1 > s.Trim && cat.Level() >= catalog.LevelNames {
				origin := bundle.Origin{Broker: id.Broker, Epoch: id.Epoch, Nonce: s.Nonce}
				if err := wal.MarkEnd(ctx, store, origin, s.SealedAt); err != nil {
					return err
				}
			}
			s, err := cat.SetTrim(ctx, s, keep-1)
			if err == nil {
				w.sessions[id] = s
			}
			return err
		})
		if err != nil && !errors.Is(err, catalog.ErrNotFound) && !errors.Is(err, catalog.ErrFenced) {
			return fmt.Errorf("trim: %w", err)
		}
	}
	return nil
}

// forget removes the items of the sealed sessions that no slot named, with
// their heartbeats, and returns their number. No slot comes to name one of them again.
func (w *Writers) forget(ctx context.Context, cat *catalog.Catalog) (n int, err error) {
	for id, s := range w.sessions {
		if s.State != catalog.Sealed || w.owners[id] || w.spanned[id] {
			continue
		}
		err := bounded(ctx, func(ctx context.Context) error {
			if err := cat.RemoveHeartbeat(ctx, id); err != nil {
				return err
			}
			return cat.RemoveSession(ctx, s)
		})
		switch {
		case err == nil:
			n++
		case !errors.Is(err, catalog.ErrNotFound) && !errors.Is(err, catalog.ErrFenced): // else somebody was faster
			return n, err
		}
	}
	return n, nil
}

// trimmed tells whether an object, if it is of a WAL, may be deleted by what its
// session's item records: up to its trim, or behind its seal.
func (w *Writers) trimmed(o objstore.Info) bool {
	if !strings.HasPrefix(o.Key, wal.KeyPrefix) {
		return true
	}
	origin, _ := wal.ParseKey(o.Key)
	s, ok := w.sessions[catalog.SessionID{Broker: origin.Broker, Epoch: origin.Epoch}]
	return !ok || origin.Seq <= s.Trim || origin.Seq > s.SealedAt
}

// forgotten tells whether a session without an item was one of this cluster:
// its item goes when it is sealed and no slot names it.
func (w *Writers) forgotten(id catalog.SessionID) bool {
	highest, ok := w.highest[id.Broker]
	return ok && id.Epoch <= highest
}
