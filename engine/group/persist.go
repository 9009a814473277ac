package group

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// load reads the group. A state written under another ownership, or with a
// write of ours still on its way, is written first, which ends all other
// writers; the offsets are read after that, and the topics after the offsets:
// so a topic that has offsets and is not among them is one that was deleted.
func (e *entry) load() job {
	cat, id, slot, unsettled := e.c.o.Catalog, e.id, e.slot, e.unsettled
	return func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		item, g, from, err := read(ctx, cat, id)
		wrote := false
		if err == nil && g.created && (unsettled || from != fenceOf(slot)) {
			wrote = true
			item.Value = encode(g, fenceOf(slot))
			if _, err = cat.SaveGroup(ctx, slot, item); err == nil {
				item, g, _, err = read(ctx, cat, id)
			}
		}
		if err == nil && len(g.offsets) > 0 {
			err = cat.Refresh(ctx)
		}
		return func() {
			if err != nil {
				e.fail("load group", err, unsettled || wrote)
				return
			}
			e.install(item, g)
		}
	}
}

// readState reads a group without its offsets.
func readState(ctx context.Context, cat *catalog.Catalog, id string) (*Group, error) {
	item, err := cat.ReadGroupState(ctx, id)
	if err != nil || len(item.Value) == 0 {
		return NewGroup(), err
	}
	g, _, err := decode(item.Value)
	return g, err
}

func read(ctx context.Context, cat *catalog.Catalog, id string) (catalog.GroupState, *Group, fence, error) {
	item, offsets, err := cat.LoadGroup(ctx, id)
	if err != nil || len(item.Value) == 0 && len(offsets)+len(item.Pending) == 0 {
		return item, NewGroup(), fence{}, err
	}
	g, f := NewGroup(), fence{}
	if len(item.Value) == 0 { // offsets were once committed before their group was saved
		g.created, g.emptySince = true, time.Now()
	} else if g, f, err = decode(item.Value); err != nil {
		return item, nil, f, err
	}
	g.hold(offsets, maps.Clone(item.Pending))
	return item, g, f, nil
}

func (e *entry) install(item catalog.GroupState, g *Group) {
	if g.resume(time.Now()) {
		e.version++
	}
	e.group, e.item, e.unsettled = g, item, false
	waiting := e.waiting
	e.waiting = nil
	for _, ev := range waiting {
		e.step(ev)
	}
	e.arm()
}

// fail drops the group after an error; wrote: of a write, which may land yet.
func (e *entry) fail(what string, err error, wrote bool) {
	code := kafka.CoordinatorNotAvailable
	switch {
	case errors.Is(err, catalog.ErrFenced), errors.Is(err, context.Canceled):
		code = kafka.NotCoordinator
	case errors.Is(err, catalog.ErrTooLarge):
		code = kafka.UnknownServerError
	}
	e.c.o.Logger.Warn("forget a group, which will be read again", "failed", what, "group", e.id, "error", err)
	e.unsettled = wrote
	e.drop(code)
}

// owner returns the slot as it is now, if it is still owned as it was.
func (e *entry) owner() catalog.Slot {
	if slot, ok := e.c.o.Slot(e.id); ok && sameOwner(slot, e.slot) {
		return slot
	}
	return e.slot
}

// save writes the state of now.
func (e *entry) save() job {
	cat, slot, item, version := e.c.o.Catalog, e.owner(), e.item, e.version
	item.Value = encode(e.group, fenceOf(slot))
	return func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		saved, err := cat.SaveGroup(ctx, slot, item)
		return func() {
			if err != nil {
				e.fail("save group", err, true)
				return
			}
			e.item, e.saved = saved, version
			e.release(Saved, version)
		}
	}
}

// release gives the answers that waited for a version to be saved.
func (e *entry) release(when When, version int64) {
	e.held = slices.DeleteFunc(e.held, func(h held) bool {
		ready := h.reply.When == when && h.version <= version
		if ready {
			e.answer(h.reply)
		}
		return ready
	})
}

// write commits the offsets that have gathered, one commit at a time.
func (e *entry) write() job {
	cat, item, b := e.c.o.Catalog, e.item, e.batch
	e.batch, e.writing, e.confirmed = batch{}, true, false
	e.writeAt = time.Now().Add(e.c.o.Config().OffsetsCommitInterval)
	return func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		var err error
		if len(b.set)+len(b.del) > 0 {
			err = cat.CommitOffsets(ctx, item, b.set, slices.Collect(maps.Keys(b.del)))
		}
		for _, id := range slices.Sorted(maps.Keys(b.pending)) { // behind the offsets: what has ended well is the group's
			if err == nil {
				err = cat.PutPending(ctx, item, id, b.pending[id])
			}
		}
		return func() {
			if err != nil {
				e.fail("commit offsets", err, true)
				return
			}
			e.writing = false
			e.group.Applied(b.set, b.del, b.pending)
			for _, r := range b.replies {
				e.answer(r)
			}
			for _, v := range b.looks {
				v.look(e.group)
				e.give(Reply{Token: v.token, When: v.when})
			}
		}
	}
}

// confirm answers what was seen of the group once a read shows that nobody else
// has taken it since: a broker that has been fenced and does not know it yet has
// offsets in memory that others may have gone past.
func (e *entry) confirm() job {
	cat, item, replies := e.c.o.Catalog, e.item, e.confirming
	e.confirming, e.confirmed = nil, true
	return func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		stands, err := cat.GroupStands(ctx, item)
		if err == nil && !stands {
			err = catalog.ErrFenced
		}
		return func() {
			if err != nil {
				e.fail("confirm group", err, false)
				return
			}
			for _, r := range replies {
				e.answer(r)
			}
		}
	}
}

// remove deletes the group, which then is as one that never was.
func (e *entry) remove() job {
	cat, slot, item := e.c.o.Catalog, e.owner(), e.item
	return func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		var err error
		if len(item.Value) > 0 {
			err = cat.DeleteGroup(ctx, slot, item)
		}
		return func() {
			if err != nil && !errors.Is(err, catalog.ErrNotFound) {
				e.fail("delete group", err, true)
				return
			}
			e.release(Deleted, e.version)
			e.drop(kafka.CoordinatorNotAvailable)
		}
	}
}
