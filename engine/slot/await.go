package slot

import (
	"context"
	"fmt"
	"time"
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

// behind tells whether a live session does not act on a change yet.
func (m *Manager) behind(ctx context.Context, change int64) (bool, error) {
	live := m.o.View.Now().Live()
	if len(live) < 2 {
		return false, nil
	}
	beats, err := m.o.Catalog.Heartbeats(ctx)
	if err != nil {
		return true, err
	}
	for _, id := range live {
		acts := id == m.session.ID
		for _, b := range beats {
			acts = acts || b.Session == id && b.Applied >= change
		}
		if !acts {
			return true, nil
		}
	}
	return false, nil
}
