package broker

import (
	"context"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/retention"
)

// retain applies retention to the partitions of this broker, and cleans up
// behind deleted topics, on the broker's own schedule.
func (b *Broker) retain(ctx context.Context) error {
	job, err := retention.New(retention.Options{
		Catalog: b.catalog, Store: b.o.Store, Slots: b.cluster.Slots, Partitions: b.retained,
		Interval:     func() time.Duration { return b.config.Load().RetentionCheckInterval },
		Unreferenced: b.cold.Forget, Deleted: b.cache.Forget,
		Logger: b.o.Logger, Registerer: b.registerer(),
	})
	if err != nil {
		return err
	}
	return job.Run(ctx)
}

// retained lists the open logs as retention sees them.
func (b *Broker) retained() []retention.Partition {
	topics := b.catalog.Topics()
	var all []retention.Partition
	for _, l := range b.logs.All() {
		topic, ok := topics.ByID(l.TP().Topic)
		if !ok {
			continue
		}
		hot, _ := l.Size()
		all = append(all, retention.Partition{
			Topic: *topic, TP: l.TP(), Config: l.Config(), LogStart: l.Offsets().LogStart, Sealed: l.SealedEnd(), HotBytes: hot,
			SetLogStart: func(ctx context.Context, off kafka.Offset) error { return b.setLogStart(ctx, l, off) },
		})
	}
	return all
}
