package catalog

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/meta"
)

// SessionID names one life of a broker.
type SessionID struct {
	Broker int32 `json:"b"`
	Epoch  int64 `json:"e"`
}

func (id SessionID) compare(o SessionID) int {
	return cmp.Or(cmp.Compare(id.Broker, o.Broker), cmp.Compare(id.Epoch, o.Epoch))
}

// SessionState is where a session is in its life. It only goes forward.
type SessionState string

// The states of a session.
const (
	Live   SessionState = "live"
	Fenced SessionState = "fenced"
	Sealed SessionState = "sealed"
)

func (s SessionState) rank() int { return slices.Index([]SessionState{Live, Fenced, Sealed}, s) }

// Session is one life of a broker process.
type Session struct {
	ID       SessionID
	Nonce    [16]byte
	State    SessionState
	SealedAt int64 // WAL sequence number of the seal; -1: not sealed
	Trim     int64 // WAL objects up to this one may have been deleted; -1: none
	Addr     string
	Rack     string
	Leaving  bool // it hands over its slots and will end
	Levels   Levels
	item     meta.Item
}

func sessionPK(broker int32) string { return fmt.Sprintf("session/%010d", broker) }

func sessionOf(item meta.Item) (Session, error) {
	f := read(item)
	s := Session{
		ID: SessionID{Broker: int32(f.int("broker")), Epoch: f.int("epoch")}, State: SessionState(f.text("state")),
		SealedAt: f.int("sealed_at"), Trim: f.int("trim"), Addr: f.text("addr"), Rack: f.text("rack"), item: bare(item),
	}
	s.Leaving, _ = item.Attrs["leaving"].(bool)
	s.Levels = Levels{1, 1}
	if _, ok := item.Attrs["max_level"]; ok {
		s.Levels = Levels{int(f.int("min_level")), int(f.int("max_level"))}
	}
	if n := copy(s.Nonce[:], f.bytes("nonce")); f.err == nil && n != len(s.Nonce) {
		f.err = fmt.Errorf("item %v: nonce of %d bytes", item.Key, n)
	}
	return s, f.err
}

func (s Session) attrs() meta.Attrs {
	return meta.Attrs{
		"v": format, "broker": int64(s.ID.Broker), "epoch": s.ID.Epoch, "nonce": s.Nonce[:], "state": string(s.State),
		"sealed_at": s.SealedAt, "trim": s.Trim, "addr": s.Addr, "rack": s.Rack, "leaving": s.Leaving,
		"min_level": int64(s.Levels.Min), "max_level": int64(s.Levels.Max),
	}
}

func (s Session) member() Member { return Member{s.ID, s.State, s.Addr, s.Rack, s.Leaving, s.Levels} }

// Sessions returns the sessions of one broker id, oldest first.
func (c *Catalog) Sessions(ctx context.Context, broker int32) ([]Session, error) {
	items, err := c.all(ctx, sessionPK(broker), "")
	if err != nil {
		return nil, fmt.Errorf("list sessions of broker %d: %w", broker, err)
	}
	sessions := make([]Session, 0, len(items))
	for _, it := range items {
		s, err := sessionOf(it)
		if err != nil {
			return nil, err
		}
		sessions = append(sessions, s)
	}
	return sessions, nil
}

// SessionEpochs returns the highest session epoch that each broker id had.
func (c *Catalog) SessionEpochs(ctx context.Context) (map[int32]int64, error) {
	items, err := c.all(ctx, "sessions", "")
	if err != nil {
		return nil, fmt.Errorf("list brokers: %w", err)
	}
	epochs := make(map[int32]int64, len(items))
	for _, it := range items {
		f := read(it)
		epochs[int32(f.int("broker"))] = f.int("epoch")
		if f.err != nil {
			return nil, f.err
		}
	}
	return epochs, nil
}

// parallel is how many reads are made at a time.
const parallel = 16

// AllSessions returns the sessions of all brokers.
func (c *Catalog) AllSessions(ctx context.Context) ([]Session, error) {
	brokers, err := c.all(ctx, "sessions", "")
	if err != nil {
		return nil, fmt.Errorf("list brokers: %w", err)
	}
	each := make([][]Session, len(brokers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, it := range brokers {
		f := read(it)
		b := int32(f.int("broker"))
		if f.err != nil {
			return nil, errors.Join(f.err, g.Wait())
		}
		g.Go(func() (err error) {
			each[i], err = c.Sessions(ctx, b)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(each...), nil
}

// ErrSuperseded means that a session of the same broker id was started by
// somebody else meanwhile.
var ErrSuperseded = errors.New("catalog: another process runs this broker id")

// StartSession begins a session of a broker, with a heartbeat: its epoch is
// higher than any that the broker id had.
func (c *Catalog) StartSession(ctx context.Context, broker int32, addr, rack string) (Session, error) {
	return c.startSession(ctx, Session{ID: SessionID{Broker: broker}, Addr: addr, Rack: rack}, nil)
}

// FollowSession begins the session that follows an ended one of the same
// process. ErrSuperseded: another process has begun one of this broker id.
func (c *Catalog) FollowSession(ctx context.Context, ended Session) (Session, error) {
	return c.startSession(ctx, Session{ID: ended.ID, Addr: ended.Addr, Rack: ended.Rack}, &ended.ID)
}

func (c *Catalog) startSession(ctx context.Context, s Session, follows *SessionID) (Session, error) {
	s.State, s.SealedAt, s.Trim, s.Levels = Live, -1, -1, Levels{MinLevel, Level}
	rand.Read(s.Nonce[:])
	var create meta.Op
	e := entry{kind: changeSession}
	id, err := c.change(ctx, &e, func(*Topics) ([]meta.Op, error) {
		known, err := c.get(ctx, "sessions", brokerSK(s.ID.Broker))
		if err != nil {
			return nil, err
		}
		s.ID.Epoch = 0
		if known.Version > 0 {
			f := read(known)
			if s.ID.Epoch = f.int("epoch") + 1; f.err != nil {
				return nil, f.err
			}
		}
		if follows != nil && s.ID.Epoch != follows.Epoch+1 {
			return nil, ErrSuperseded
		}
		create = meta.Create(meta.Key{PK: sessionPK(s.ID.Broker), SK: fmt.Sprintf("%020d", s.ID.Epoch)}, s.attrs())
		e.value = jsonText(s.member())
		info, err := c.get(ctx, clusterPK, infoSK)
		if err == nil && info.Version > 0 {
			_, err = clusterOf(info) // it may have been raised since this program began
		}
		if err != nil {
			return nil, err
		}
		return []meta.Op{create, meta.Check(info), Heartbeat{Session: s.ID}.create(),
			meta.Put(known, meta.Attrs{"v": format, "broker": int64(s.ID.Broker), "epoch": s.ID.Epoch})}, nil
	})
	if err != nil {
		return Session{}, fmt.Errorf("start session of broker %d: %w", s.ID.Broker, err)
	}
	s.item = written(create, id)
	return s, nil
}

// Session returns a session as it is now. ErrNotFound.
func (c *Catalog) Session(ctx context.Context, id SessionID) (Session, error) {
	s, err := c.session(ctx, id)
	if err != nil {
		return s, fmt.Errorf("read session: %w", err)
	}
	return s, nil
}

func (c *Catalog) session(ctx context.Context, id SessionID) (Session, error) {
	item, err := c.get(ctx, sessionPK(id.Broker), fmt.Sprintf("%020d", id.Epoch))
	if err != nil {
		return Session{}, err
	}
	if item.Version == 0 {
		return Session{}, fmt.Errorf("session %d/%d: %w", id.Broker, id.Epoch, ErrNotFound)
	}
	return sessionOf(item)
}

// FenceSession ends a session's catalogue commits and its trimming. It
// returns the session as the fence found it and left it; one that somebody
// has fenced or sealed already is returned as it is.
func (c *Catalog) FenceSession(ctx context.Context, s Session) (Session, error) {
	return c.moveSession(ctx, s.ID, func(now *Session) bool {
		if now.State != Live {
			return false
		}
		now.State = Fenced
		return true
	})
}

// AnnounceLeave tells that a live session will end, and wants to own nothing
// until then.
func (c *Catalog) AnnounceLeave(ctx context.Context, s Session) (Session, error) {
	return c.moveSession(ctx, s.ID, func(now *Session) bool {
		if now.State != Live || now.Leaving {
			return false
		}
		now.Leaving = true
		return true
	})
}

// RecordSeal records where a fenced session's seal lies. What is recorded
// first stays; it is what is returned.
func (c *Catalog) RecordSeal(ctx context.Context, s Session, at int64) (Session, error) {
	return c.moveSession(ctx, s.ID, func(now *Session) bool {
		if now.State == Sealed {
			return false
		}
		now.State, now.SealedAt = Sealed, at
		return true
	})
}

// errAsIs ends a change that has nothing to write.
var errAsIs = errors.New("catalog: nothing to write")

// moveSession changes a session by what it is now; move tells whether there
// is anything to write.
func (c *Catalog) moveSession(ctx context.Context, id SessionID, move func(*Session) bool) (Session, error) {
	var now Session
	var replace meta.Op
	e := entry{kind: changeSession}
	commit, err := c.change(ctx, &e, func(*Topics) (_ []meta.Op, err error) {
		if now, err = c.Session(ctx, id); err != nil {
			return nil, err
		}
		if !move(&now) {
			return nil, errAsIs
		}
		replace, e.value = meta.Replace(now.item, now.attrs()), jsonText(now.member())
		return []meta.Op{replace}, nil
	})
	switch {
	case errors.Is(err, errAsIs):
		return now, nil
	case err != nil:
		return Session{}, fmt.Errorf("write session %d/%d: %w", id.Broker, id.Epoch, err)
	}
	now.item = written(replace, commit)
	return now, nil
}

// SetTrim records that WAL objects up to n may be deleted, on condition that
// the session is still in the state that s says, live or sealed. That it was trimmed
// since it was read is no obstacle. It returns the session as it is now. ErrFenced: the
// condition is false.
func (c *Catalog) SetTrim(ctx context.Context, s Session, n int64) (Session, error) {
	for now := s; ; {
		if now.State == Fenced || now.State != s.State {
			return s, ErrFenced
		}
		if n <= now.Trim {
			return now, nil
		}
		next := now
		next.Trim = n
		replace := meta.Replace(now.item, next.attrs())
		id, err := c.commit(ctx, replace)
		if err == nil {
			next.item = written(replace, id)
			return next, nil
		}
		if errors.Is(err, meta.ErrConflict) {
			now, err = c.Session(ctx, s.ID)
		}
		if err != nil {
			return s, fmt.Errorf("record trim of session %d/%d: %w", s.ID.Broker, s.ID.Epoch, err)
		}
	}
}

// RemoveSession forgets a sealed session. The caller has seen that no slot
// names it; its seal stays in the object store for ever.
func (c *Catalog) RemoveSession(ctx context.Context, s Session) error {
	if s.State != Sealed {
		return fmt.Errorf("remove session %d/%d: it is %s", s.ID.Broker, s.ID.Epoch, s.State)
	}
	if _, err := c.commit(ctx, meta.Delete(s.item)); err != nil {
		return fmt.Errorf("remove session %d/%d: %w", s.ID.Broker, s.ID.Epoch, fencedIf(err))
	}
	return nil
}
