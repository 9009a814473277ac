package txn

import (
	"context"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Pauses between attempts at what has not taken a marker yet.
const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = time.Second
)

// finish ends a decided transaction, unless that is under way here. Where too
// many are, the next look at the slot finds it again.
func (c *Coordinator) finish(t catalog.Txn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil || c.ending[t.ID] || len(c.ending) >= maxEnding {
		return
	}
	c.ending[t.ID] = true
	c.wg.Add(1)
	ctx, done := c.ctx, c.wg.Done
	go func() {
		defer done()
		c.end(ctx, t)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.ending, t.ID)
	}()
}

// end sends markers until all have taken them, and completes the transaction. It
// gives up when the slot is not owned here any more: its owner goes on.
func (c *Coordinator) end(ctx context.Context, t catalog.Txn) {
	begin := time.Now()
	all, err := t.All()
	if err != nil {
		c.o.Logger.Error("end a transaction", "err", err)
		return
	}
	m := Marker{
		ProducerID: t.ProducerID, Epoch: t.Epoch, Commit: t.State == catalog.TxnPrepareCommit,
		Number: t.Number, Numbered: true, Partitions: all, Groups: t.Groups,
	}
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		m = c.deliver(ctx, m)
		if len(m.Partitions)+len(m.Groups) == 0 {
			break
		}
		if wait(ctx, pause); ctx.Err() != nil || !c.owns(t.ID) {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if _, out := c.update(ctx, t.ID, func(now *catalog.Txn, at time.Time) outcome { return complete(now, t.Number, at) }); out.code != kafka.None {
		return // the next look finds it
	}
	c.metrics.ended(m.Commit, time.Since(begin))
}
