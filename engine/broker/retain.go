package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/retention"
	"github.com/varvelog/varve/tiering/sweep"
)

const startsRetry = time.Second

// retain applies retention on the broker's own schedule, for the whole cluster
// where no other broker and no function is at it.
func (b *Broker) retain(ctx context.Context) error {
	job, err := retention.New(retention.Options{
		Catalog: b.catalog, Store: b.o.Store, Slots: b.cluster.Slots, Holder: fmt.Sprintf("broker-%d", b.o.Self.ID),
		Config:       b.settings,
		Interval:     func() time.Duration { return b.settings().RetentionCheckInterval },
		Tail:         b.tail,
		Unreferenced: b.cold.Forget, Deleted: b.cache.Forget,
		Logger: b.o.Logger, Registerer: b.registerer(),
	})
	if err != nil {
		return err
	}
	return job.Run(ctx)
}

// sweep looks for what killed writers left, on the broker's own schedule, where
// no other broker and no function is at it.
func (b *Broker) sweep(ctx context.Context) error {
	job, err := sweep.New(sweep.Options{
		Catalog: b.catalog, Store: b.o.Store, Holder: fmt.Sprintf("broker-%d", b.o.Self.ID),
		Grace:    func() time.Duration { return config.EffectiveTopic(b.settings(), nil).FileDeleteDelay },
		Interval: func() time.Duration { return b.settings().SweepInterval },
		Deleted:  func(o objstore.Info, _ string) { b.cache.Forget(o.Key) },
		Logger:   b.o.Logger, Registerer: b.registerer(),
	})
	if err != nil {
		return err
	}
	return job.Run(ctx)
}

// tail returns the bytes of a log that are not sealed; 0 for one that this
// broker doesn't own.
func (b *Broker) tail(tp kafka.TopicPartition) int64 {
	l, ok := b.logs.Peek(tp)
	if !ok {
		return 0
	}
	hot, _ := l.Size()
	return hot
}

// followStarts raises the starts of this broker's logs when a job has raised
// them in the catalogue.
func (b *Broker) followStarts(ctx context.Context) error {
	seen := make(map[kafka.Slot]int64) // by slot, the change up to which its starts were read since it was opened
	for {
		changed := b.catalog.Changed()
		retry := (<-chan time.Time)(nil)
		whole, err := b.readStarts(ctx, seen)
		if err != nil && ctx.Err() == nil {
			b.o.Logger.Warn("read log starts", "err", err)
		}
		if !whole {
			retry = time.After(startsRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry:
		}
	}
}

// readStarts reads the starts of those owned slots in which some were raised
// since they were read. whole tells that none has to be read again: a log that
// is being opened may have read its own start before.
func (b *Broker) readStarts(ctx context.Context, seen map[kafka.Slot]int64) (whole bool, err error) {
	topics := b.catalog.Topics()
	whole = true
	manager := b.manager.Load()
	for _, s := range manager.Owned() {
		raised := topics.StartsRaised(s.Slot)
		if max(seen[s.Slot], manager.StartsRead(s.Slot)) >= raised {
			continue
		}
		if manager.Dormant(s.Slot) {
			whole = false // until it wakes, and has read them
			continue
		}
		starts, err := b.catalog.LogStarts(ctx, s.Slot)
		if err != nil {
			return false, err
		}
		open := true
		for tp, off := range starts {
			l, ok := b.logs.Peek(tp)
			if ok {
				l.SetLogStart(off)
			}
			open = open && ok
		}
		if open {
			seen[s.Slot] = raised
		}
		whole = whole && open
	}
	return whole, nil
}
