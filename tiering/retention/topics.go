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

// CleanDeleted removes what is left of deleted topics. Every commit of a
// segment checks its topic, so once the tombstone is there no reference can
// come; once all entries are gone, nothing below the topic's prefix is ever read
// again, whoever wrote it.
func (j *Job) CleanDeleted(ctx context.Context) error {
	var topics []catalog.DeletedTopic
	err := bounded(ctx, func(ctx context.Context) (err error) {
		topics, err = j.o.Catalog.DeletedTopics(ctx)
		return err
	})
	if err != nil {
		return err
	}
	there := make(map[kafka.TopicID]bool, len(topics))
	var errs []error
	for _, t := range topics {
		there[t.ID] = true
		if err := j.cleanTopic(ctx, t); err != nil {
			errs = append(errs, fmt.Errorf("clean deleted topic %s: %w", t.Name, err))
		}
	}
	for id := range j.emptied {
		if !there[id] {
			delete(j.emptied, id) // somebody else was quicker
		}
	}
	return errors.Join(errs...)
}

func (j *Job) cleanTopic(ctx context.Context, t catalog.DeletedTopic) error {
	since, ok := j.emptied[t.ID]
	if !ok {
		for p := range t.Partitions {
			if err := j.emptyPartition(ctx, t, kafka.TopicPartition{Topic: t.ID, Partition: p}); err != nil {
				return err
			}
		}
		j.emptied[t.ID] = time.Now()
		return nil
	}
	if time.Since(since) < j.o.Grace {
		return nil
	}
	if err := j.deletePrefix(ctx, "seg/"+t.ID.Hex()+"/"); err != nil {
		return err
	}
	if err := bounded(ctx, func(ctx context.Context) error { return j.o.Catalog.ForgetTopic(ctx, t) }); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	delete(j.emptied, t.ID)
	j.o.Logger.Info("deleted topic cleaned", "topic", t.Name, "id", t.ID)
	return nil
}

// emptyPartition removes a deleted topic's entries and log start.
func (j *Job) emptyPartition(ctx context.Context, t catalog.DeletedTopic, tp kafka.TopicPartition) error {
	for {
		n := 0
		err := bounded(ctx, func(ctx context.Context) error {
			segs, err := j.o.Catalog.Segments(ctx, tp, 0, removeBatch)
			if err != nil || len(segs) == 0 {
				return err
			}
			n = len(segs)
			return j.o.Catalog.RemoveSegments(ctx, nil, segs, nil)
		})
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		j.o.Unreferenced(tp)
		j.metrics.removed.Add(float64(n))
	}
	slot := kafka.PartitionSlot(t.Name, tp.Partition, j.o.Slots)
	return bounded(ctx, func(ctx context.Context) error { return j.o.Catalog.RemoveLogStart(ctx, slot, tp) })
}

// deletePrefix deletes all objects below a prefix that nobody reads.
func (j *Job) deletePrefix(ctx context.Context, prefix string) error {
	for after := ""; ; {
		var infos []objstore.Info
		err := bounded(ctx, func(ctx context.Context) (err error) {
			infos, err = j.o.Store.List(ctx, prefix, after, objstore.MaxDeleteKeys)
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
		if err := j.delete(ctx, keys); err != nil {
			return err
		}
		after = keys[len(keys)-1]
	}
}
