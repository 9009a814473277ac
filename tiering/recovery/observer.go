package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/wal"
)

// looks is how often an Observer begins anew because owners were at work on
// the slots meanwhile.
const looks = 8

// Observer reads the tails of slots beside their owners, who go on writing. It
// writes nothing.
//
// What a slot item names is there as long as the item is as it was: an owner
// trims only after the commit that took the names away. So a look counts if
// the slots were the same before and behind it; else it begins anew. A live
// session's WAL is read up to its first gap: what is there can't be lost any
// more, whoever seals.
//
// While the slots stay as they are, a later look reads only what was added.
// It is used by one goroutine.
type Observer struct {
	store   objstore.Store
	cat     *catalog.Catalog
	numbers []kafka.Slot

	slots []catalog.Slot // of the last look; nil: none succeeded
	ends  map[catalog.SessionID]int64
	r     *Recovery
}

// NewObserver returns an Observer of these slots.
func NewObserver(store objstore.Store, cat *catalog.Catalog, numbers []kafka.Slot) *Observer {
	return &Observer{store: store, cat: cat, numbers: numbers}
}

// Look returns the tails of the slots' partitions as they are now. The caller
// may keep and change them. Errors: wal.ErrHole for an object that is missing and still
// named, wrapped; those of store and catalogue.
func (o *Observer) Look(ctx context.Context) (map[kafka.TopicPartition]Tail, error) {
	var err error
	for range looks {
		var same bool
		if same, err = o.look(ctx); same && err != nil || ctx.Err() != nil {
			break
		}
		if same {
			return o.tails(), nil
		}
		o.slots = nil
	}
	if err == nil {
		err = errors.New("the slots change faster than they can be read")
	}
	o.slots = nil
	return nil, fmt.Errorf("look at the tails of %d slots: %w", len(o.numbers), err)
}

// look reads on, or anew where the slots have changed. same tells that nobody
// wrote the slots from when they were read until it was done.
func (o *Observer) look(ctx context.Context) (same bool, err error) {
	before, err := o.readSlots(ctx)
	if err != nil {
		return true, err
	}
	if o.slots != nil && slices.EqualFunc(before, o.slots, catalog.Slot.SameAs) {
		err = o.readOn(ctx)
	} else {
		err = o.readAnew(ctx, before)
	}
	if errors.Is(err, errBehind) {
		return false, err // an owner has sealed what it had not yet written when the WAL was read
	}
	after, rerr := o.readSlots(ctx)
	if rerr != nil {
		return true, errors.Join(err, rerr)
	}
	return slices.EqualFunc(before, after, catalog.Slot.SameAs), err
}

func (o *Observer) readSlots(ctx context.Context) ([]catalog.Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if len(o.numbers) > 16 { // one query is cheaper than many reads
		all, err := o.cat.Slots(ctx)
		return slices.DeleteFunc(all, func(s catalog.Slot) bool { return !slices.Contains(o.numbers, s.Slot) }), err
	}
	all := make([]catalog.Slot, len(o.numbers))
	g, ctx := errgroup.WithContext(ctx)
	for i, n := range o.numbers {
		g.Go(func() (err error) {
			all[i], err = o.cat.Slot(ctx, n)
			return err
		})
	}
	return all, g.Wait()
}

// sessions returns the sessions that the slots' spans name. Where they are not
// sealed they end at the first gap.
func (o *Observer) sessions(ctx context.Context, slots []catalog.Slot) (map[catalog.SessionID]catalog.Session, error) {
	sessions := make(map[catalog.SessionID]catalog.Session)
	for _, sp := range joinSpans(slots) {
		s, err := o.session(ctx, sp)
		if err != nil {
			return nil, err
		}
		sessions[s.ID] = s
	}
	return sessions, nil
}

func (o *Observer) session(ctx context.Context, sp catalog.Span) (catalog.Session, error) {
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := o.cat.Session(bounded, sp.Session)
	if err != nil || s.State == catalog.Sealed {
		return s, err
	}
	from := max(sp.From, s.Trim+1, o.ends[s.ID])
	s.SealedAt, err = wal.End(ctx, o.store, bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Nonce: s.Nonce}, from)
	return s, err
}

func (o *Observer) readAnew(ctx context.Context, slots []catalog.Slot) error {
	o.slots, o.ends = nil, make(map[catalog.SessionID]int64)
	sessions, err := o.sessions(ctx, slots)
	if err != nil {
		return err
	}
	r, err := read(ctx, o.store, o.cat, slots, sessions)
	if err != nil {
		return err
	}
	if err := r.settle(ctx, o.cat); err != nil {
		return err
	}
	o.slots, o.r = slots, r
	for id, s := range sessions {
		o.ends[id] = s.SealedAt
	}
	return nil
}

// readOn reads what the sessions have written since the last look.
func (o *Observer) readOn(ctx context.Context) error {
	o.r.goOn(o.slots)
	for _, sp := range joinSpans(lastSpans(o.slots)) {
		if sp.To >= 0 && sp.To <= o.ends[sp.Session] {
			continue
		}
		s, err := o.session(ctx, sp)
		if err != nil {
			return err
		}
		sp.From = max(sp.From, o.ends[s.ID])
		if err := o.r.span(ctx, o.store, sp, s); err != nil {
			return err
		}
		o.ends[s.ID] = s.SealedAt
	}
	return o.r.settle(ctx, o.cat)
}

// lastSpans returns the slots with their last spans only, which alone are open.
func lastSpans(slots []catalog.Slot) []catalog.Slot {
	out := slices.Clone(slots)
	for i, s := range out {
		out[i].Spans = s.Spans[max(0, len(s.Spans)-1):]
	}
	return out
}

// tails copies what was rebuilt: later looks go on with the original.
func (o *Observer) tails() map[kafka.TopicPartition]Tail {
	all := make(map[kafka.TopicPartition]Tail, len(o.r.tails))
	for tp, t := range o.r.tails {
		all[tp] = Tail{State: CloneState(&t.State), Hot: slices.Clone(t.Hot)}
	}
	return all
}
