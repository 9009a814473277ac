package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// Heartbeat is a session's sign of life, an item apart from the session's own,
// so that renewals disturb no commit that checks it. Only the session writes it.
type Heartbeat struct {
	Session SessionID
	Counter int64       // grows with each renewal
	Applied int64       // the newest change of the feed that the session acts on
	WALNext int64       // of its WAL: what it appends from now on lies there or behind
	Refused []SessionID // whose connections it sees refused
	Load    Load
	item    meta.Item
}

// Load is what a session's slots are asked for: bytes a second, appended and read.
type Load struct {
	Total int64      `json:"total,omitempty"`
	Hot   []SlotLoad `json:"hot,omitempty"` // the busiest, busiest first
}

// SlotLoad is what one slot is asked for.
type SlotLoad struct {
	Slot kafka.Slot `json:"slot"`
	Rate int64      `json:"rate"` // bytes a second
}

const heartbeatsPK = "heartbeats"

func heartbeatKey(id SessionID) meta.Key {
	return meta.Key{PK: heartbeatsPK, SK: fmt.Sprintf("%010d/%020d", id.Broker, id.Epoch)}
}

func (h Heartbeat) attrs() meta.Attrs {
	refused := h.Refused
	if refused == nil {
		refused = []SessionID{}
	}
	return meta.Attrs{
		"v": format, "broker": int64(h.Session.Broker), "epoch": h.Session.Epoch, "counter": h.Counter,
		"applied": h.Applied, "wal_next": h.WALNext, "refused": jsonText(refused), "load": jsonText(h.Load),
	}
}

func (h Heartbeat) create() meta.Op { return meta.Create(heartbeatKey(h.Session), h.attrs()) }

func heartbeatOf(item meta.Item) (Heartbeat, error) {
	f := read(item)
	h := Heartbeat{
		Session: SessionID{Broker: int32(f.int("broker")), Epoch: f.int("epoch")}, Counter: f.int("counter"),
		Applied: f.int("applied"), WALNext: f.int("wal_next"), item: bare(item),
	}
	f.json("refused", &h.Refused)
	if _, ok := item.Attrs["load"]; ok { // not before it was told
		f.json("load", &h.Load)
	}
	return h, f.err
}

// Heartbeats returns all heartbeats, by broker id and age.
func (c *Catalog) Heartbeats(ctx context.Context) ([]Heartbeat, error) {
	items, err := c.all(ctx, heartbeatsPK, "")
	if err != nil {
		return nil, fmt.Errorf("read heartbeats: %w", err)
	}
	all := make([]Heartbeat, 0, len(items))
	for _, it := range items {
		h, err := heartbeatOf(it)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// Renew writes a session's heartbeat with its counter raised by one, and
// returns it as written. ErrFenced: it was removed, so the session is sealed.
func (c *Catalog) Renew(ctx context.Context, h Heartbeat) (Heartbeat, error) {
	err := again(ctx, func() error {
		if h.item.Version == 0 {
			item, err := c.get(ctx, heartbeatsPK, heartbeatKey(h.Session).SK)
			if err != nil {
				return err
			}
			if item.Version == 0 {
				return ErrFenced
			}
			now, err := heartbeatOf(item)
			if err != nil {
				return err
			}
			h.item, h.Counter = now.item, max(h.Counter, now.Counter)
		}
		next := h
		next.Counter++
		replace := meta.Replace(h.item, next.attrs())
		id, err := c.commit(ctx, replace)
		if err != nil {
			h.item = meta.Item{} // an earlier renewal may have landed meanwhile
			return err
		}
		next.item = written(replace, id)
		h = next
		return nil
	})
	if err != nil {
		return h, fmt.Errorf("renew heartbeat of session %d/%d: %w", h.Session.Broker, h.Session.Epoch, err)
	}
	return h, nil
}

// RemoveHeartbeat removes the heartbeat of a sealed session.
func (c *Catalog) RemoveHeartbeat(ctx context.Context, id SessionID) error {
	err := again(ctx, func() error {
		item, err := c.get(ctx, heartbeatsPK, heartbeatKey(id).SK)
		if err != nil || item.Version == 0 {
			return err
		}
		_, err = c.commit(ctx, meta.Delete(item))
		return err
	})
	if err != nil && !errors.Is(err, meta.ErrConflict) {
		return fmt.Errorf("remove heartbeat of session %d/%d: %w", id.Broker, id.Epoch, err)
	}
	return nil
}
