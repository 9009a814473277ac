package replay

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// tails is what the partitions of a replay know of their tails. Whoever finds
// that they are out of date renews them, for all.
type tails struct {
	looker looker
	turn   chan struct{} // of capacity 1: who has put something in looks

	mu     sync.Mutex
	latest *snapshot
}

// snapshot is one look at the tails. It is immutable.
type snapshot struct {
	number int // counts from 1
	tails  map[kafka.TopicPartition]recovery.Tail
	next   chan struct{} // closed when there is a newer one
}

func (s *snapshot) of(tp kafka.TopicPartition) recovery.Tail { return s.tails[tp] }

func newTails(l looker) *tails {
	return &tails{looker: l, turn: make(chan struct{}, 1), latest: &snapshot{next: make(chan struct{})}}
}

func (t *tails) now() *snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// renew returns a snapshot newer than the one with the number seen.
func (t *tails) renew(ctx context.Context, seen int) (*snapshot, error) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-t.turn }()
	if now := t.now(); now.number > seen {
		return now, nil // somebody else has
	}
	all, err := t.looker.Look(ctx)
	if errors.Is(err, objstore.ErrNotFound) || errors.Is(err, wal.ErrHole) {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read tails: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.latest
	t.latest = &snapshot{number: old.number + 1, tails: all, next: make(chan struct{})}
	close(old.next)
	return t.latest, nil
}
