package broker

import (
	"context"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/varvelog/varve/engine/slot"
	"github.com/varvelog/varve/tiering/compaction"
)

// compact compacts logs on the broker's own schedule, for the whole cluster
// where no other broker and no function is at it. It yields to produce.
func (b *Broker) compact(ctx context.Context) error {
	job, err := compaction.New(compaction.Options{
		Catalog: b.catalog, Store: b.o.Store, Slots: b.cluster.Slots, Holder: fmt.Sprintf("broker-%d", b.o.Self.ID),
		Config: b.settings, Level: zstd.EncoderLevelFromZstd(b.settings().SealLevel),
		Pace:         slot.Pace(func() int64 { return b.manager.Load().Written() }),
		Unreferenced: b.cold.Forget,
		Logger:       b.o.Logger, Registerer: b.registerer(),
	})
	if err != nil {
		return err
	}
	return job.Run(ctx)
}
