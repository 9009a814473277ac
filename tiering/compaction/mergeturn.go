package compaction

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// mergeEntries is how many entries of a log are looked at together.
const mergeEntries = 1000

// position is how far merging is: the state of the job's lease. Cleaning needs
// none, it finds its place in the entries.
type position struct {
	Merged    int64  `json:"merged"`              // ms; when all logs had been looked at
	Topic     string `json:"topic,omitempty"`     // where what is not finished goes on
	Partition int32  `json:"partition,omitempty"` // of Topic
}

func positionOf(l catalog.Lease) (p position, err error) {
	err = l.ReadState(&p)
	return p, err
}

// mergeDue tells whether the logs have to be looked at again. A last time in
// the future is by a clock that was ahead: when it was, nobody knows.
func (j *Job) mergeDue(at position) bool {
	d := time.Since(time.UnixMilli(at.Merged))
	return at.Topic != "" || d < 0 || d >= j.o.Config().MergeInterval
}

// mergeAll merges what is small in all logs, or goes on with it. One that
// fails does not hold up the others.
func (t *turn) mergeAll(ctx context.Context) error {
	if !t.mergeDue(t.at) {
		return nil
	}
	var errs []error
	for _, topic := range t.o.Catalog.Topics().All() {
		cfg := config.EffectiveTopic(t.o.Config(), topic.Configs)
		if cfg.Compact || topic.Name < t.at.Topic {
			continue
		}
		for p := int32(0); p < topic.Partitions; p++ {
			if topic.Name == t.at.Topic && p < t.at.Partition {
				continue
			}
			l := target{topic: topic, tp: kafka.TopicPartition{Topic: topic.ID, Partition: p}, cfg: cfg}
			if err := t.mergeLog(ctx, l); overtaken(err) {
				t.o.Logger.Info("merge was overtaken", "topic", topic.Name, "partition", p, "err", err)
			} else if err != nil {
				errs = append(errs, fmt.Errorf("merge segments of %s-%d: %w", topic.Name, p, err))
			}
			if ctx.Err() != nil || t.lost {
				return errors.Join(errs...)
			}
			t.at.Topic, t.at.Partition = topic.Name, p+1
		}
	}
	t.at = position{Merged: time.Now().UnixMilli()}
	return errors.Join(errs...)
}

// mergeLog merges the runs of small entries of one log. An error that says
// overtaken leaves the rest to the next time.
func (t *turn) mergeLog(ctx context.Context, l target) error {
	p := t.passOver(l, nil)
	defer t.done(p)
	for from, last := kafka.Offset(0), false; !last; {
		if err := t.keep(ctx); err != nil {
			return err
		}
		segs, err := t.segments(ctx, l.tp, from, mergeEntries+1)
		if last = len(segs) <= mergeEntries; err != nil || len(segs) == 0 {
			return err
		}
		segs = segs[:min(len(segs), mergeEntries)]
		from = segs[len(segs)-1].End
		for _, run := range Runs(l.cfg, t.o.Config().MergeLeast, segs, last) {
			if err := p.merge(ctx, run); err != nil {
				return err
			}
			t.o.Logger.Info("segments merged", "topic", l.topic.Name, "partition", l.tp.Partition,
				"from", run[0].Base, "to", run[len(run)-1].End, "entries", len(run))
		}
	}
	return nil
}
