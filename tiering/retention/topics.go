package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore"
)

// cleanDeleted removes what is left of deleted topics. Every commit of a
// segment checks its topic, so once the tombstone is there no reference can
// come; once all entries are gone, nothing below the topic's prefix is ever read
// again, whoever wrote it.
func (t *turn) cleanDeleted(ctx context.Context) error {
	var topics []catalog.DeletedTopic
	err := bounded(ctx, func(ctx context.Context) (err error) {
		topics, err = t.o.Catalog.DeletedTopics(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, topic := range topics {
		if ctx.Err() != nil {
			break
		}
		if err := t.cleanTopic(ctx, topic); err != nil {
			errs = append(errs, fmt.Errorf("clean deleted topic %s: %w", topic.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (t *turn) cleanTopic(ctx context.Context, topic catalog.DeletedTopic) error {
	if topic.Emptied.IsZero() {
		for p := range topic.Partitions {
			if err := t.emptyPartition(ctx, topic, kafka.TopicPartition{Topic: topic.ID, Partition: p}); err != nil {
				return err
			}
		}
		return bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.MarkEmptied(ctx, topic) })
	}
	if time.Since(topic.Emptied) < topicGrace {
		return nil
	}
	if err := t.deletePrefix(ctx, "seg/"+topic.ID.Hex()+"/"); err != nil {
		return err
	}
	if err := bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.ForgetTopic(ctx, topic) }); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	t.o.Logger.Info("deleted topic cleaned", "topic", topic.Name, "id", topic.ID)
	return nil
}

// emptyPartition removes a deleted topic's entries and log start.
func (t *turn) emptyPartition(ctx context.Context, topic catalog.DeletedTopic, tp kafka.TopicPartition) error {
	for {
		var segs []catalog.Segment
		err := bounded(ctx, func(ctx context.Context) (err error) {
			if segs, err = t.o.Catalog.Segments(ctx, tp, 0, removeBatch); err != nil {
				return err
			}
			return t.o.Catalog.SwapSegments(ctx, catalog.Swap{Lease: &t.lease, Old: segs})
		})
		if err != nil {
			return err
		}
		if len(segs) == 0 {
			break
		}
		t.o.Unreferenced(tp)
		t.stats.Segments += int64(len(segs))
		t.metrics.removed.Add(float64(len(segs)))
		if err := t.keep(ctx); err != nil {
			return err
		}
	}
	slot := kafka.PartitionSlot(topic.Name, tp.Partition, t.o.Slots)
	return bounded(ctx, func(ctx context.Context) error { return t.o.Catalog.RemoveLogStart(ctx, slot, tp) })
}

// deletePrefix deletes all objects below a prefix that nobody reads.
func (t *turn) deletePrefix(ctx context.Context, prefix string) error {
	for after := ""; ; {
		var infos []objstore.Info
		err := bounded(ctx, func(ctx context.Context) (err error) {
			infos, err = t.o.Store.List(ctx, prefix, after, objstore.MaxDeleteKeys)
			return err
		})
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if len(infos) == 0 {
			return nil
		}
		keys := make([]string, len(infos))
		for i := range infos {
			keys[i] = infos[i].Key
		}
		if err := t.delete(ctx, keys); err != nil {
			return err
		}
		after = keys[len(keys)-1]
		if err := t.keep(ctx); err != nil {
			return err
		}
	}
}
