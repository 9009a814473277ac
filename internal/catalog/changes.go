package catalog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/varvelog/varve/internal/meta"
)

const (
	changesPK   = "changes"
	keepChanges = time.Hour   // older entries of the feed go
	pollPeriod  = time.Second // changes are told sooner (Hint)
)

// entry is a change in the feed: a topic's or a broker's settings, which are read anew by name, or
// members and slots, who are in its value.
type entry struct{ kind, name, value string }

func (e entry) create(number int64) meta.Op {
	attrs := meta.Attrs{"v": format, "kind": e.kind, "name": e.name, "at": time.Now().UnixMilli()}
	if e.value != "" {
		attrs["value"] = e.value
	}
	return meta.Create(meta.Key{PK: changesPK, SK: changeSK(number)}, attrs)
}

func changeSK(n int64) string { return fmt.Sprintf("%020d", n) }

// Topics returns the newest snapshot, without I/O.
func (c *Catalog) Topics() *Topics { return c.topics.Load() }

// Members returns the newest snapshot of sessions and owners, without I/O.
func (c *Catalog) Members() *Members { return c.topics.Load().members }

// Applied returns the number of the newest change that the snapshots have.
func (c *Catalog) Applied() int64 { return c.topics.Load().change }

// Changed returns a channel that is closed at the next new snapshot.
func (c *Catalog) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// change commits what build returns together with the next entry of the
// change feed, brings the snapshot up to it and returns the commit's id. build
// is given the snapshot that the commit stands on: nothing that is in the feed
// has changed since when it is applied. It is called again when a race is lost.
// It may complete e, too.
func (c *Catalog) change(ctx context.Context, e *entry, build func(now *Topics) ([]meta.Op, error)) (id string, err error) {
	err = again(ctx, func() error {
		if err := c.Refresh(ctx); err != nil {
			return err
		}
		now := c.Topics()
		ops, err := build(now)
		if err != nil {
			return err
		}
		id, err = c.commit(ctx, append(ops, e.create(now.change+1))...)
		return err
	})
	if err != nil {
		return "", err
	}
	return id, c.see(ctx)
}

// see brings the snapshot up to a change that was just made.
func (c *Catalog) see(ctx context.Context) error {
	if err := persist(ctx, func() error { return c.Refresh(ctx) }); err != nil {
		return fmt.Errorf("applied, but not yet seen: %w", err)
	}
	return nil
}

// Refresh brings the snapshot up to the newest change. Where it fails on the way, the next one goes on from there.
func (c *Catalog) Refresh(ctx context.Context) error {
	if c.Topics().change < 0 {
		return c.reload(ctx)
	}
	for {
		now := c.Topics()
		items, more, err := c.store.Query(ctx, changesPK, meta.Range{After: changeSK(now.change)})
		if err != nil {
			return fmt.Errorf("read changes: %w", err)
		}
		if len(items) == 0 {
			return nil
		}
		next := now.clone()
		for _, it := range items {
			if it.SK != changeSK(next.change+1) {
				return c.reload(ctx) // the feed was pruned past this snapshot
			}
			if err = c.applyChange(ctx, next, it); err != nil {
				err = fmt.Errorf("apply change %s: %w", it.SK, err)
				break
			}
		}
		if next.change > now.change {
			c.publish(next)
		}
		if err != nil || !more {
			return err
		}
	}
}

// applyChange brings one topic or broker, or the members, of a private snapshot
// up to date. What it reads may be newer than the change: later changes then find it so.
func (c *Catalog) applyChange(ctx context.Context, next *Topics, item meta.Item) error {
	f := read(item)
	kind, name := f.text("kind"), f.text("name")
	if f.err != nil {
		return f.err
	}
	switch kind {
	case "topic":
		t, err := c.topic(ctx, name)
		switch {
		case errors.Is(err, ErrNotFound):
			next.remove(name)
		case err != nil:
			return err
		default:
			next.put(t)
		}
	case "broker":
		_, configs, err := c.brokerConfigs(ctx, name)
		if err != nil {
			return err
		}
		next.brokers[name] = configs
	case changeSession, changeSlots, changePlacement:
		members, err := next.members.apply(kind, f.text("value"))
		if err := errors.Join(f.err, err); err != nil {
			return err
		}
		next.members = members
	case changeLevel:
		n, err := strconv.Atoi(f.text("value"))
		if err := errors.Join(f.err, err); err != nil {
			return err
		}
		next.level = n
	case changeStarts:
		starts, err := next.starts.with(f.text("value"), next.change+1)
		if err := errors.Join(f.err, err); err != nil {
			return err
		}
		next.starts = starts
	}
	next.change++
	return nil
}

// reload reads everything anew. The feed's end is read first, so what the
// snapshot has is at least as new as it says.
func (c *Catalog) reload(ctx context.Context) error {
	next := newTopics()
	var err error
	if next.change, err = c.lastChange(ctx); err != nil {
		return err
	}
	next.starts.since = next.change
	items, err := c.all(ctx, topicsPK, "")
	if err != nil {
		return fmt.Errorf("read topics: %w", err)
	}
	for _, it := range items {
		t, err := topicOf(it)
		if err != nil {
			return fmt.Errorf("read topics: %w", err)
		}
		next.put(t)
	}
	configs, err := c.all(ctx, "config", "broker/")
	if err != nil {
		return fmt.Errorf("read broker settings: %w", err)
	}
	for _, it := range configs {
		broker := it.SK[len("broker/"):]
		if _, next.brokers[broker], err = c.brokerConfigs(ctx, broker); err != nil {
			return fmt.Errorf("read broker settings: %w", err)
		}
	}
	if next.members, err = c.loadMembers(ctx); err != nil {
		return err
	}
	if next.level, err = c.readLevel(ctx); err != nil {
		return err
	}
	c.publish(next)
	return nil
}

// lastChange returns the number of the newest change; -1 where there was none.
func (c *Catalog) lastChange(ctx context.Context) (int64, error) {
	last, _, err := c.store.Query(ctx, changesPK, meta.Range{Reverse: true, Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("read changes: %w", err)
	}
	if len(last) == 0 {
		return -1, nil
	}
	var n int64
	if _, err := fmt.Sscanf(last[0].SK, "%d", &n); err != nil {
		return 0, fmt.Errorf("read changes: %w", err)
	}
	return n, nil
}

// publish makes a snapshot the newest, unless a newer one has come.
func (c *Catalog) publish(next *Topics) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.topics.Load().change >= next.change {
		return
	}
	c.topics.Store(next)
	close(c.changed)
	c.changed = make(chan struct{})
}

// Made returns a channel that tells, once for one or more of them, that changes were committed
// here. One receiver hears of each.
func (c *Catalog) Made() <-chan struct{} { return c.told }

// LastMade returns the number of the newest change that was committed here, 0: none, or the first. Where a commit's
// outcome was unknown for a while, it may be somebody else's.
func (c *Catalog) LastMade() int64 { return c.made.Load() }

// tell notes the changes among what was committed.
func (c *Catalog) tell(ops []meta.Op) {
	for _, op := range ops {
		if op.Key.PK != changesPK || op.Kind != meta.OpCreate {
			continue
		}
		if n, err := strconv.ParseInt(op.Key.SK, 10, 64); err == nil { // as changeSK has made it
			raise(&c.made, n)
			signal(c.told)
		}
	}
}

// Hint tells that somebody has made a change: Run reads the feed at once, if that is news. After
// a hint of what is not there it listens to no more of them until it has read the feed by itself.
func (c *Catalog) Hint(change int64) {
	if change > c.Applied() {
		raise(&c.hint, change)
		signal(c.hinted)
	}
}

func raise(v *atomic.Int64, n int64) {
	for before := v.Load(); before < n && !v.CompareAndSwap(before, n); before = v.Load() {
	}
}

func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Run follows the change feed, each second and when it is hinted at, and prunes
// its old entries, until ctx ends. Failures are told to onError and tried again.
func (c *Catalog) Run(ctx context.Context, onError func(error)) error {
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	prune := time.NewTicker(keepChanges / 4)
	defer prune.Stop()
	for hinted := c.hinted; ; {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.hint.Store(0)
			hinted = c.hinted
			err = c.bounded(ctx, c.Refresh)
		case <-hinted:
			if err = c.bounded(ctx, c.Refresh); c.Applied() < c.hint.Load() {
				hinted = nil
			}
		case <-prune.C:
			err = c.bounded(ctx, c.pruneChanges)
		}
		if err != nil && ctx.Err() == nil {
			onError(err)
		}
	}
}

func (c *Catalog) bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return fn(ctx)
}

// pruneChanges removes old entries; the newest always stays, for its number. Those that a clock that was ahead has dated
// in the future hold nothing up: who has not seen one yet reads all anew.
func (c *Catalog) pruneChanges(ctx context.Context) error {
	now := time.Now()
	before := now.Add(-keepChanges).UnixMilli()
	for {
		items, more, err := c.store.Query(ctx, changesPK, meta.Range{Limit: meta.MaxOps + 1})
		if err != nil {
			return fmt.Errorf("prune changes: %w", err)
		}
		var old []meta.Op
		for _, it := range items[:max(0, len(items)-1)] {
			f := read(it)
			at := f.int("at")
			if f.err != nil {
				return fmt.Errorf("prune changes: %w", f.err)
			}
			if at > before && at <= now.UnixMilli() {
				more = false
				break
			}
			old = append(old, meta.Delete(it))
		}
		if len(old) == 0 {
			return nil
		}
		if _, err := c.commit(ctx, old...); errors.Is(err, meta.ErrConflict) {
			return nil // somebody else is at it
		} else if err != nil {
			return fmt.Errorf("prune changes: %w", err)
		}
		if !more {
			return nil
		}
	}
}
