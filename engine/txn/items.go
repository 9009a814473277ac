package txn

import (
	"context"
	"errors"
	"time"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// patience is how long a request waits for the transaction before it to be
// ended; clients ask again when that was not enough.
const patience = time.Second

// Pauses between looks at whether it is.
const (
	firstLook = 2 * time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// Items reads and writes the items of transactional ids. Each step stands on a
// read, and its write on the item being as it was read; so it does not matter which
// broker takes it. All methods are safe for concurrent use.
type Items struct {
	Catalog *catalog.Catalog
	Slots   int
}

// Claim names the open transaction of a producer, and what that is to have in it.
type Claim struct {
	TransactionalID string
	ProducerID      int64
	Epoch           int16
	Partitions      []kafka.TopicPartition
	Groups          []string
}

func (c Claim) add() add { return add{producer{c.ProducerID, c.Epoch}, c.Partitions, c.Groups} }

func (c Claim) verify(t *catalog.Txn, _ time.Time) outcome { return refuse(c.add().verify(t)) }

// Verify tells whether a producer has a transaction open that all the
// partitions and groups have been added to, and its number (KIP-890): so what
// arrives late, behind the transaction's end, begins none that nobody would end. The
// code is TRANSACTION_ABORTABLE where it has not, and CONCURRENT_TRANSACTIONS
// where it is being ended.
func (i Items) Verify(ctx context.Context, c Claim) (number int32, code kafka.ErrorCode) {
	return i.look(ctx, c.TransactionalID, c.verify)
}

// Join adds the partitions and groups to the producer's transaction, which
// begins if none is open (KIP-890: clients of Produce version 12 and
// TxnOffsetCommit version 5 on do not ask for that themselves), and returns its number.
func (i Items) Join(ctx context.Context, c Claim) (number int32, code kafka.ErrorCode) {
	return i.look(ctx, c.TransactionalID, c.add().step)
}

// InTxn is Verify, or Join, of one group; it does not wait (group.Options.InTxn).
func (i Items) InTxn(ctx context.Context, t group.Transaction, id string, join bool) (number int32, code kafka.ErrorCode) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	c := Claim{TransactionalID: t.ID, ProducerID: t.ProducerID, Epoch: t.Epoch, Groups: []string{id}}
	look := c.verify
	if join {
		look = c.add().step
	}
	seen, out := i.update(ctx, t.ID, look)
	return seen.Number, out.code
}

func (i Items) look(ctx context.Context, id string, step step) (number int32, code kafka.ErrorCode) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	t, code := patiently(ctx, func() (catalog.Txn, outcome) { return i.update(ctx, id, step) })
	return t.Number, code
}

func (i Items) slot(id string) kafka.Slot { return kafka.GroupSlot(id, i.Slots) }

type step = func(t *catalog.Txn, now time.Time) outcome

// patiently tries again, for a while, while the transaction before is being ended.
func patiently(ctx context.Context, try func() (catalog.Txn, outcome)) (catalog.Txn, kafka.ErrorCode) {
	limit := time.Now().Add(patience)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		t, out := try()
		if out.code != kafka.ConcurrentTransactions || !t.Prepared() || time.Now().Add(pause).After(limit) {
			return t, out.code
		}
		if wait(ctx, pause); ctx.Err() != nil {
			return t, out.code
		}
	}
}

// update takes a step: it reads the item, and writes what the step made of it.
// A step that meets another's write is taken again, on what that has left.
func (i Items) update(ctx context.Context, id string, step step) (catalog.Txn, outcome) {
	return i.updateAs(ctx, nil, id, step)
}

// updateAs is update for the owner of the id's slot, nil: for anybody. What only the owner may write is
// not tried again.
func (i Items) updateAs(ctx context.Context, owned *catalog.Slot, id string, step step) (catalog.Txn, outcome) {
	for {
		t, err := i.Catalog.ReadTxn(ctx, i.slot(id), id)
		if err != nil {
			return t, refuse(codeOf(err))
		}
		was := t // nobody is to act on what could not be written, or may not have been
		out := step(&t, time.Now())
		if !out.save {
			return t, out
		}
		var saved catalog.Txn
		if out.owned && owned != nil {
			saved, err = i.Catalog.SaveOwnedTxn(ctx, *owned, t)
		} else {
			saved, err = i.Catalog.SaveTxn(ctx, t)
		}
		switch {
		case err == nil:
			return saved, out
		case errors.Is(err, catalog.ErrFenced) && out.owned:
			return was, refuse(kafka.NotCoordinator)
		case !errors.Is(err, catalog.ErrFenced):
			return was, refuse(codeOf(err))
		}
	}
}

// codeOf tells a client what has become of its request: it asks again, unless
// that cannot help.
func codeOf(err error) kafka.ErrorCode {
	if errors.Is(err, catalog.ErrTooLarge) {
		return kafka.UnknownServerError
	}
	return kafka.CoordinatorNotAvailable
}
