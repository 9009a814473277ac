package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// txns removes the transactional ids of a slot that nobody has used for
// transactional.id.expiration.ms, as Kafka's coordinator does. One with a
// transaction that is open or being ended stays, however old. An id is removed on
// condition that it is as it was read, so that nobody is asked whose it is: a
// producer that comes back meanwhile finds it or, as one that comes later, begins anew.
func (t *turn) txns(ctx context.Context, slot kafka.Slot) error {
	var all []catalog.Txn
	err := bounded(ctx, func(ctx context.Context) (err error) {
		all, err = t.o.Catalog.Txns(ctx, slot)
		return err
	})
	if err != nil {
		return err
	}
	before := time.Now().Add(-t.o.Config().TransactionalIDExpiration).UnixMilli()
	var errs []error
	for _, txn := range all {
		if txn.Prepared() || txn.State == catalog.TxnOngoing || txn.UpdateMs > before {
			continue
		}
		err := bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.DeleteTxn(ctx, txn) })
		switch {
		case ctx.Err() != nil:
			return errors.Join(errs...)
		case errors.Is(err, catalog.ErrFenced): // it is in use again
		case err != nil:
			errs = append(errs, fmt.Errorf("expire transactional id %q: %w", txn.ID, err))
		default:
			t.stats.Txns++
			t.metrics.txns.Inc()
		}
	}
	return errors.Join(errs...)
}
