package slot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/wal"
)

// start begins the session.
func start(ctx context.Context, o *Options, steps *patience) (mine catalog.Session, err error) {
	begin := func() (catalog.Session, error) { return o.Catalog.StartSession(ctx, o.Broker, o.Addr, o.Rack) }
	if o.Follows != nil && o.Follows.Nonce != [16]byte{} {
		begin = func() (catalog.Session, error) { return o.Catalog.FollowSession(ctx, *o.Follows) }
	}
	err = steps.persist(ctx, "start session", func() error {
		if mine, err = begin(); !errors.Is(err, catalog.ErrSuperseded) {
			return err
		}
		if err := awaitSilence(ctx, o); err != nil {
			return err
		}
		mine, err = o.Catalog.StartSession(ctx, o.Broker, o.Addr, o.Rack)
		return err
	})
	if err != nil {
		return mine, err
	}
	if o.Follows != nil {
		*o.Follows = mine
	}
	return mine, nil
}

// endOlder ends every older session of this broker id that is not sealed yet,
// as anyone may end a suspected one.
func endOlder(ctx context.Context, o *Options, steps *patience, mine catalog.Session) error {
	var older []catalog.Session
	err := steps.persist(ctx, "list sessions", func() (err error) {
		older, err = o.Catalog.Sessions(ctx, o.Broker)
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range older {
		if s.State == catalog.Sealed || s.ID.Epoch >= mine.ID.Epoch {
			continue
		}
		err := steps.persist(ctx, "end predecessor", func() error { return endSession(ctx, o, s.ID, originOf(mine)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitSilence waits until the newest session of this broker id, which another
// process has begun, is over or has not renewed its heartbeat for the session timeout.
// catalog.ErrSuperseded: it lives.
func awaitSilence(ctx context.Context, o *Options) error {
	newest := func() (h catalog.Heartbeat, live bool, err error) {
		beats, err := o.Catalog.Heartbeats(ctx)
		for _, b := range beats {
			if b.Session.Broker == o.Broker { // by age
				h = b
			}
		}
		if err == nil {
			err = o.Catalog.Refresh(ctx)
		}
		s, ok := o.Catalog.Members().Session(h.Session)
		return h, ok && s.State == catalog.Live, err
	}
	before, live, err := newest()
	if err != nil || !live {
		return err
	}
	select {
	case <-time.After(o.Config().SessionTimeout):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	now, live, err := newest()
	if err == nil && live && (now.Session != before.Session || now.Counter != before.Counter) {
		return catalog.ErrSuperseded
	}
	return err
}

// endSession ends one session for good: fence, seal its WAL, record where. Each
// step can be repeated, by anyone.
func endSession(ctx context.Context, o *Options, id catalog.SessionID, sealer bundle.Origin) error {
	err := func() error {
		s, err := o.Catalog.FenceSession(ctx, catalog.Session{ID: id})
		if errors.Is(err, catalog.ErrNotFound) || err == nil && s.State == catalog.Sealed {
			return nil // others were faster
		}
		if err != nil {
			return fmt.Errorf("fence: %w", err)
		}
		at, err := wal.Seal(ctx, o.Store, originOf(s), s.Trim+1, sealer)
		if err != nil {
			return fmt.Errorf("seal: %w", err)
		}
		sealed, err := o.Catalog.RecordSeal(ctx, s, at)
		if err != nil {
			return fmt.Errorf("record seal at %d: %w", at, err)
		}
		o.Logger.Info("session ended", "broker", id.Broker, "session", id.Epoch, "sealed_at", sealed.SealedAt)
		return o.Catalog.RemoveHeartbeat(ctx, id)
	}()
	if err != nil {
		return fmt.Errorf("end session %d/%d: %w", id.Broker, id.Epoch, err)
	}
	return nil
}

// closeSpans writes the seals' positions into spans that were open to the seal.
func closeSpans(spans []catalog.Span, sessions map[catalog.SessionID]catalog.Session) []catalog.Span {
	var closed []catalog.Span
	for _, sp := range spans {
		if s, ok := sessions[sp.Session]; ok && sp.To < 0 && s.State == catalog.Sealed {
			sp.To = s.SealedAt
		}
		if sp.To < 0 || sp.From < sp.To {
			closed = append(closed, sp)
		}
	}
	return closed
}

func originOf(s catalog.Session) bundle.Origin {
	return bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Nonce: s.Nonce}
}
