package api

import (
	"context"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objcache"
)

// A consumer that is too far behind for RAM is read ahead for: while an answer
// is on its way, what the connection's next Fetch will want is read, so that
// disk and network work at the same time.

const (
	maxAhead    = 64 << 20 // bytes that are read ahead for all connections together
	maxAheadOne = 16 << 20 // for one
)

// ahead is what is read ahead for a connection.
type ahead struct {
	done  chan struct{} // closed when arena has it
	arena *objcache.Arena
	bytes int64
}

// readAhead begins to read what follows this fetch, if that is not in RAM.
func (f *fetching) readAhead(ctx context.Context, c *conn) {
	if f.arena.Empty() {
		return // what was read was in RAM
	}
	asks := make([]partition.Ask, 0, len(f.logs))
	for i, l := range f.logs {
		if l != nil && f.next[i] > f.parts[i].from && f.next[i] < f.rowLimit(i) {
			asks = append(asks, partition.Ask{Log: l, From: f.next[i], Limit: int(f.parts[i].max)})
		}
	}
	n := min(int64(f.req.MaxBytes), maxAheadOne)
	if len(asks) == 0 || !f.s.ahead.TryAcquire(n) {
		return
	}
	a := &ahead{done: make(chan struct{}), arena: objcache.NewArena(), bytes: n}
	c.ahead = a
	iso := kafka.Isolation(f.req.IsolationLevel)
	go func() {
		defer close(a.done)
		partition.Prefetch(ctx, asks, n, iso, a.arena)
	}()
}

// rowLimit is the offset up to which a partition can be read now.
func (f *fetching) rowLimit(i int) kafka.Offset {
	if kafka.Isolation(f.req.IsolationLevel) == kafka.ReadCommitted {
		return f.rows[i].LastStableOffset
	}
	return f.rows[i].HighWatermark
}

// takeAhead waits for what was read ahead, and makes into its owner.
func (c *conn) takeAhead(into *objcache.Arena) {
	if c.ahead == nil {
		return
	}
	a := c.ahead
	c.ahead = nil
	<-a.done
	into.Take(a.arena)
	c.s.ahead.Release(a.bytes)
}
