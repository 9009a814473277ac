package meta

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/hedge"
)

// hedged is a store whose slow calls are made twice.
type hedged struct {
	Store
	reads, writes hedge.Calls
}

// Hedged returns a store that asks a second time where an answer takes longer than nearly all did before (package hedge):
// reads, and commits that replace or delete one item. Of these whichever is applied makes the other's condition
// false for ever. A commit that creates is sent once, as one that was applied late could bring back what has been
// deleted meanwhile; and one of several items, since DynamoDB refuses a second one while the first is under way.
//
// A commit that was sent twice and refused has an unknown outcome: the other may have been applied.
func Hedged(s Store, reg prometheus.Registerer) (Store, error) {
	second := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "varve_metadata_hedged_total", Help: "Calls to the metadata store that were made a second time because the first was slow.",
	})
	if reg != nil {
		if err := reg.Register(second); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	h := &hedged{Store: s}
	h.reads.Second, h.writes.Second = second.Inc, second.Inc
	return h, nil
}

// Get implements Store.
func (h *hedged) Get(ctx context.Context, key Key) (Item, error) {
	item, _, err := hedge.Do(ctx, &h.reads, answered, func(ctx context.Context) (Item, error) { return h.Store.Get(ctx, key) })
	return item, err
}

// Query implements Store.
func (h *hedged) Query(ctx context.Context, pk string, r Range) ([]Item, bool, error) {
	type page struct {
		items []Item
		more  bool
	}
	p, _, err := hedge.Do(ctx, &h.reads, answered, func(ctx context.Context) (p page, err error) {
		p.items, p.more, err = h.Store.Query(ctx, pk, r)
		return p, err
	})
	return p.items, p.more, err
}

// Commit implements Store.
func (h *hedged) Commit(ctx context.Context, id string, ops ...Op) error {
	if len(ops) != 1 || ops[0].Kind != OpReplace && ops[0].Kind != OpDelete {
		return h.Store.Commit(ctx, id, ops...)
	}
	_, twice, err := hedge.Do(ctx, &h.writes, answered, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.Store.Commit(ctx, id, ops...)
	})
	if twice && (errors.Is(err, ErrConflict) || errors.Is(err, ErrBusy)) {
		return fmt.Errorf("sent twice, one of them: %v", err) //nolint:errorlint // it says nothing of the other
	}
	return err
}

// answered tells whether the store has said something that will not change by asking once more.
func answered(err error) bool {
	return err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) || errors.Is(err, ErrInvalid)
}
