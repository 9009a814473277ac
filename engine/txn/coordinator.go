// Package txn coordinates transactions (KIP-98): it gives producers their ids and
// epochs, knows what a transaction has written to, decides it, and sees to it that
// all it has written to hears of that.
//
// A transactional id is one item of the catalogue, and all there is of it: no
// coordinator keeps anything of it in memory that a decision rests on. A request
// reads the item, takes a pure step (step.go), and writes it on condition that nobody
// else has meanwhile; then it answers. So two coordinators that both think the
// slot theirs cannot contradict each other, and who takes a slot over has nothing to load.
//
//	         add, verify                     end: one conditional write decides
//	Empty ──────────────▶ Ongoing ──────────────────────────▶ Prepare…
//	                                    markers to partitions and groups, durable
//	                                                             ▼
//	                        the next add ◀────────────────── Complete…
//
// What the owner of an id's slot has beyond others is a duty: to end what is
// prepared, and to abort what its producer has left open for too long.
//
// Each of an id's transactions has a number, which its markers carry where Kafka's
// have the coordinator's epoch. A log takes a number's marker once, so that it
// may be sent any number of times, and one that is late does nothing to the next transaction.
package txn

import (
	"context"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/peer"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

const (
	ioTimeout = 10 * time.Second // of one request's calls of the catalogue
	lookEvery = time.Second      // for slots that are new here
	settle    = 2 * time.Second  // after a slot has come before its ids are read: those who wait for them come first
	idleEvery = 5 * time.Minute  // between looks at a slot in which no transaction has been of late
	busyFor   = 10 * time.Minute // after the last of them
	maxEnding = 256              // transactions that are being ended at a time
)

// Groups commits and forgets the offsets that transactions have for groups;
// *group.Coordinator does.
type Groups interface {
	// EndTxn makes the offsets of a producer's transaction the group's, or
	// forgets them. It may be called again. Codes are those of OffsetCommit.
	EndTxn(ctx context.Context, group string, producerID int64, number int32, commit bool) kafka.ErrorCode
}

// Options are what a Coordinator needs.
type Options struct {
	Items
	Slot       func(kafka.Slot) (catalog.Slot, bool) // false: not owned here
	Owned      func() []catalog.Slot                 // all that are owned here
	Logs       *partition.Set
	Wake       func(context.Context, iter.Seq[kafka.Slot]) // waits until those that are dormant here are awake; nil: none ever is
	Groups     Groups
	Cluster    func() *member.Cluster // of the moment
	Self       int32
	Peers      *peer.Pool // nil: there are no other brokers
	Config     func() *config.Broker
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Coordinator coordinates the transactions of the slots that this broker owns.
// All methods are safe for concurrent use.
type Coordinator struct {
	Items
	o       Options
	metrics *metrics
	ids     producerIDs

	mu      sync.Mutex
	ctx     context.Context // Run's; nil: Run does not run
	wg      *sync.WaitGroup
	ending  map[decided]bool // what is being ended
	crowded int              // how many of those have to make room for others
	busy    map[kafka.Slot]time.Time
}

// New returns a coordinator. It ends transactions while Run runs.
func New(o Options) *Coordinator {
	c := &Coordinator{Items: o.Items, o: o, ending: make(map[decided]bool), busy: make(map[kafka.Slot]time.Time)}
	c.metrics = newMetrics(o.Registerer, c)
	return c
}

// owns tells whether this broker coordinates an id.
func (c *Coordinator) owns(id string) bool {
	_, ok := c.o.Slot(c.slot(id))
	return ok
}

// act takes a step on an id that is coordinated here, and ends what it finds decided.
func (c *Coordinator) act(ctx context.Context, id string, step step) (catalog.Txn, outcome) {
	slot, ok := c.o.Slot(c.slot(id))
	if !ok {
		return catalog.Txn{}, refuse(kafka.NotCoordinator)
	}
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	t, out := c.updateAs(ctx, &slot, id, step)
	c.used(t)
	return t, out
}

// insist is act, but waits a while for the transaction before to be ended. of
// makes the step; it is given a new producer id if the step needs one.
func (c *Coordinator) insist(ctx context.Context, id string, of func(fresh int64) step) (catalog.Txn, kafka.ErrorCode) {
	fresh := int64(none)
	return patiently(ctx, func() (catalog.Txn, outcome) {
		t, out := c.act(ctx, id, of(fresh))
		if !out.need {
			return t, out
		}
		var err error
		if fresh, err = c.producerID(ctx); err != nil {
			c.o.Logger.Warn("reserve a producer id", "transactional_id", id, "err", err)
			return t, refuse(kafka.CoordinatorNotAvailable)
		}
		return c.act(ctx, id, of(fresh))
	})
}

// used notes that there are transactions in an id's slot.
func (c *Coordinator) used(t catalog.Txn) {
	if !t.Exists() {
		return
	}
	c.mu.Lock()
	c.busy[t.Slot] = time.Now()
	c.mu.Unlock()
	if t.Prepared() {
		c.finish(t)
	}
}

// Run ends transactions until ctx ends; nothing is under way when it returns.
// It returns ctx's error.
func (c *Coordinator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.mu.Lock()
	c.ctx, c.wg = ctx, &wg
	c.mu.Unlock()
	looks := make(map[kafka.Slot]look)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			c.lookAround(ctx, looks)
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	c.ctx = nil
	c.mu.Unlock()
	wg.Wait()
	return ctx.Err()
}

// look is when a slot's ids are to be read next.
type look struct {
	epoch kafka.LeaderEpoch // of the slot as it was seen
	next  time.Time
}

// lookAround reads the ids of the slots that are due.
func (c *Coordinator) lookAround(ctx context.Context, looks map[kafka.Slot]look) {
	for _, s := range c.o.Owned() {
		now := time.Now()
		l, ok := looks[s.Slot]
		if !ok || l.epoch != s.Epoch {
			looks[s.Slot] = look{s.Epoch, now.Add(settle)}
			continue
		}
		interval := c.o.Config().TxnAbortInterval
		if now.Before(l.next) && !(c.isBusy(s.Slot) && l.next.After(now.Add(interval))) {
			continue
		}
		if err := c.lookAt(ctx, s.Slot); err != nil && ctx.Err() == nil {
			c.o.Logger.Warn("look for open transactions", "slot", s.Slot, "err", err)
		} else if !c.isBusy(s.Slot) {
			interval = max(interval, idleEvery)
		}
		looks[s.Slot] = look{s.Epoch, time.Now().Add(interval)}
	}
}

func (c *Coordinator) isBusy(s kafka.Slot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.busy[s]) < busyFor
}

// lookAt ends what is decided in a slot, and aborts what has been open for too long.
func (c *Coordinator) lookAt(ctx context.Context, slot kafka.Slot) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	all, err := c.o.Catalog.Txns(ctx, slot)
	if err != nil {
		return err
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) // where there is no room for all to be ended, each has its turn
	for _, t := range all {
		if t.Prepared() || t.State == catalog.TxnOngoing {
			c.used(t)
		}
		if !overdue(&t, time.Now()) {
			continue
		}
		late, out := c.act(ctx, t.ID, func(t *catalog.Txn, now time.Time) outcome {
			if !overdue(t, now) {
				return outcome{}
			}
			abandon(t, now)
			return outcome{save: true}
		})
		if out.save && out.code == kafka.None {
			c.metrics.timedOut.Inc()
			c.o.Logger.Info("abort a transaction that was left open", "transactional_id", late.ID, "producer_id", late.ProducerID, "timeout_ms", late.TimeoutMs)
		}
	}
	return nil
}
