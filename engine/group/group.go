// Package group coordinates classic consumer groups: who is a member, which
// protocol they share, who leads, what each is assigned, and the offsets that
// they commit. It behaves as Apache Kafka's group coordinator does.
//
// A group is a pure state machine (Group.Step): an event and the time go in,
// effects come out. An entry drives it: the requests' own goroutines run Step
// under its lock; one worker at a time, without the lock, writes the state and
// the offsets that have gathered meanwhile. Answers that reveal a generation, an
// assignment or a commit leave only when the write behind them is done. A write
// that fails or whose outcome is unknown drops the group from memory, and
// those who wait are told to try again.
//
// The fence is the group's state item: who loads a group under a new ownership
// of its slot writes it first, so that the former owner's commits, which are
// conditional on the item, find their condition false. No safety rests on time.
//
// Ids of pending members (KIP-394) are not saved, as in Kafka: they are only a
// hint, and a client whose id was forgotten joins anew.
package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

const (
	sweepEvery = 10 * time.Second
	idleFor    = time.Minute      // a group with nothing under way stays so long in memory
	ioTimeout  = 10 * time.Second // of one call of the catalogue
	maxLoaded  = 10_000           // groups in memory beyond which idle ones leave at once
)

// Options are what a Coordinator needs.
type Options struct {
	Catalog *catalog.Catalog
	Slot    func(group string) (catalog.Slot, bool) // the slot of a group's coordinator; false: not owned here
	Slots   func() []catalog.Slot                   // all that are owned here
	Config  func() *config.Broker                   // the settings of now
	// InTxn tells the number of the producer's open transaction, if it has the
	// group; join: the group enters it, or it begins with that. Nil: there are no transactions.
	InTxn  func(ctx context.Context, t Transaction, group string, join bool) (number int32, code kafka.ErrorCode)
	Logger *slog.Logger
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Coordinator coordinates the groups of the slots that this broker owns. All
// methods are safe for concurrent use.
type Coordinator struct {
	o       Options
	metrics *metrics
	listing chan struct{} // of capacity 1: one List reads the catalogue

	mu      sync.Mutex // taken after an entry's, never before it
	entries map[string]*entry

	life sync.Mutex // taken last
	ctx  context.Context
	wg   *sync.WaitGroup // what is in flight; nil: Run does not run
}

// New returns a coordinator. It answers while Run runs.
func New(o Options) *Coordinator {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Coordinator{o: o, entries: make(map[string]*entry), listing: make(chan struct{}, 1)}
	c.metrics = newMetrics(o.Registerer, c)
	return c
}

// Run lets the coordinator work until ctx ends, and drives expiry; everything
// in flight has ended when it returns. It returns ctx's error.
func (c *Coordinator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.life.Lock()
	c.ctx, c.wg = ctx, &wg
	c.life.Unlock()

	wg.Add(1)
	go func() { defer wg.Done(); c.expireLoop(ctx) }()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for ctx.Err() == nil {
		select {
		case <-sweep.C:
			c.sweep()
		case <-ctx.Done():
		}
	}
	c.life.Lock()
	c.wg = nil
	c.life.Unlock()
	c.each(func(e *entry) { e.drop(kafka.NotCoordinator) })
	wg.Wait()
	return ctx.Err()
}

// begin starts something that Run waits for; false: Run does not run.
func (c *Coordinator) begin() (context.Context, func(), bool) {
	c.life.Lock()
	defer c.life.Unlock()
	if c.wg == nil {
		return nil, nil, false
	}
	c.wg.Add(1)
	return c.ctx, c.wg.Done, true
}

// enter returns a group's entry, locked, whose slot is owned here.
func (c *Coordinator) enter(id string) (*entry, bool) {
	slot, ok := c.o.Slot(id)
	for {
		e := c.entry(id, ok)
		if e == nil {
			return nil, false
		}
		e.mu.Lock()
		if e.gone {
			e.mu.Unlock()
			continue
		}
		if !ok || !sameOwner(slot, e.slot) {
			e.lose()
			e.slot = slot
		}
		if !ok {
			e.mu.Unlock()
			return nil, false
		}
		return e, true
	}
}

// entry returns a group's entry; it makes one if owned.
func (c *Coordinator) entry(id string, owned bool) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil && owned {
		e = newEntry(c, id)
		c.entries[id] = e
	}
	return e
}

// crowded tells whether there are so many groups in memory that idle ones
// leave at once.
func (c *Coordinator) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries) > maxLoaded
}

func sameOwner(a, b catalog.Slot) bool {
	return a.Slot == b.Slot && a.Owner == b.Owner && a.Epoch == b.Epoch
}

// each visits all entries, locked.
func (c *Coordinator) each(visit func(e *entry)) {
	c.mu.Lock()
	all := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e)
	}
	c.mu.Unlock()
	for _, e := range all {
		e.mu.Lock()
		if !e.gone {
			visit(e)
		}
		e.mu.Unlock()
	}
}

// sweep forgets idle groups and those whose slot has gone.
func (c *Coordinator) sweep() {
	c.each(func(e *entry) {
		slot, ok := c.o.Slot(e.id)
		if !ok || !sameOwner(slot, e.slot) {
			e.lose()
		}
		switch {
		case !ok:
			e.unsettled = e.running // once nothing is under way, whoever owns the slot settles it
			e.forget()
		case e.unsettled && e.group == nil && len(e.waiting) == 0:
			e.handle(view{look: func(*Group) bool { return true }})
		case time.Since(e.touched) >= idleFor:
			e.forget()
		}
	})
}

// expireLoop looks for expired offsets in the groups in memory; those of the
// others are the retention job's. In a slot that is new here it wakes the groups
// that have members, so that their sessions end.
func (c *Coordinator) expireLoop(ctx context.Context) {
	woken := make(map[kafka.Slot]kafka.LeaderEpoch)
	var expired time.Time
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, slot := range c.o.Slots() {
			if epoch, ok := woken[slot.Slot]; ok && epoch == slot.Epoch {
				continue
			}
			if err := c.wake(ctx, slot); err == nil {
				woken[slot.Slot] = slot.Epoch
			} else if ctx.Err() == nil {
				c.o.Logger.Warn("wake the groups of a slot", "slot", slot.Slot, "error", err)
			}
		}
		if time.Since(expired) >= c.o.Config().OffsetsRetentionCheck {
			expired = time.Now()
			c.each(func(e *entry) { e.expire() })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// wake loads the groups of a slot that have members, one at a time. Of the
// others only the state is read, and nothing is written. One that fails does not
// hold up the others; the last error is returned.
func (c *Coordinator) wake(ctx context.Context, slot catalog.Slot) (failed error) {
	ids, err := c.groups(ctx, slot.Slot)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g, err := c.peek(ctx, id)
		switch {
		case errors.Is(err, catalog.ErrCorruptGroup): // who asks for it is told
		case err != nil:
			failed = err
		case g.state != Empty:
			if code := c.view(ctx, id, Now, func(*Group) bool { return true }); code != kafka.None {
				failed = fmt.Errorf("load group %q: %w", id, code)
			}
		}
	}
	return failed
}

// peek reads a group's state, as it was saved, and keeps nothing in memory.
func (c *Coordinator) peek(ctx context.Context, id string) (*Group, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return readState(ctx, c.o.Catalog, id)
}

func (c *Coordinator) groups(ctx context.Context, slot kafka.Slot) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return c.o.Catalog.Groups(ctx, slot)
}
