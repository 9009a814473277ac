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

// decided is a transaction that is to be ended.
type decided struct {
	id     string // transactional
	number int32
}

// finish ends a decided transaction, unless that is under way here. Where too
// many are, one that gets no further makes room, and the client's next request or the next look at the slot finds this one again.
func (c *Coordinator) finish(t catalog.Txn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := decided{t.ID, t.Number}
	if c.ctx == nil || c.ending[d] {
		return
	}
	if len(c.ending) >= maxEnding {
		c.crowded = min(c.crowded+1, maxEnding)
		return
	}
	c.ending[d] = true
	c.wg.Add(1)
	ctx, done := c.ctx, c.wg.Done
	go func() {
		defer done()
		c.end(ctx, t)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.ending, d)
	}()
}

// makeRoom tells whether an end that gets no further has to stand back for one that found no room.
func (c *Coordinator) makeRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crowded == 0 {
		return false
	}
	c.crowded--
	return true
}

// end sends markers until all have taken them, and completes the transaction. It
// gives up when the slot is not owned here any more: its owner goes on; and when it has long failed, and others wait.
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
		if wait(ctx, pause); ctx.Err() != nil || !c.owns(t.ID) || pause == lastRetry && c.makeRoom() {
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
