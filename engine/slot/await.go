package slot

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// awaitPoll is how often Await looks at the others' heartbeats.
const awaitPoll = 25 * time.Millisecond

// Await waits until all other live sessions act on the newest change that this
// one has seen, as their heartbeats say; alone it returns at once.
func (m *Manager) Await(ctx context.Context) error {
	change := m.o.Catalog.Applied()
	for {
		behind, err := m.behind(ctx, change)
		if err == nil && !behind {
			return nil
		}
		select {
		case <-time.After(awaitPoll):
		case <-ctx.Done():
			return fmt.Errorf("await change %d everywhere: %w", change, context.Cause(ctx))
		}
	}
}

// behind tells whether another live session does not act on a change yet, or
// one that is fenced may still acknowledge, because its WAL is not sealed. This session
// may have been ended meanwhile, so that a single other is enough to be asked.
func (m *Manager) behind(ctx context.Context, change int64) (bool, error) {
	for _, s := range m.o.Catalog.Members().Fenced() {
		if s.ID != m.session.ID {
			return true, nil
		}
	}
	others := slices.DeleteFunc(slices.Clone(m.o.View.Now().Live()), func(id catalog.SessionID) bool { return id == m.session.ID })
	if len(others) == 0 {
		return false, nil
	}
	beats, err := m.o.Catalog.Heartbeats(ctx)
	if err != nil {
		return true, err
	}
	for _, id := range others {
		if !slices.ContainsFunc(beats, func(b catalog.Heartbeat) bool { return b.Session == id && b.Applied >= change }) {
			return true, nil
		}
	}
	return false, nil
}
