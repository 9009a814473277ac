package verify

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objstore"
)

// log is a partition that is verified.
type log struct {
	topic string
	tp    kafka.TopicPartition
	slot  kafka.Slot
}

func (l log) finding(k Kind, at kafka.Offset, key, format string, args ...any) Finding {
	return Finding{Kind: k, Topic: l.topic, Partition: ptr(l.tp.Partition), Offset: ptr(int64(at)), Key: key, Detail: fmt.Sprintf(format, args...)}
}

// logs returns the partitions to verify.
func (v *run) logs(cluster catalog.Cluster) ([]log, error) {
	topics := v.Catalog.Topics().All()
	if len(v.Topics) > 0 {
		topics = nil
		for _, name := range v.Topics {
			t, ok := v.Catalog.Topics().ByName(name)
			if !ok {
				return nil, fmt.Errorf("topic %q does not exist", name)
			}
			topics = append(topics, t)
		}
	}
	var logs []log
	for _, t := range topics {
		for p := range t.Partitions {
			logs = append(logs, log{t.Name, kafka.TopicPartition{Topic: t.ID, Partition: p}, kafka.PartitionSlot(t.Name, p, cluster.Slots)})
		}
	}
	v.report.Topics, v.report.Partitions = len(topics), len(logs)
	return logs, nil
}

// partitions verifies the segments of all partitions.
func (v *run) partitions(ctx context.Context, cluster catalog.Cluster) error {
	logs, err := v.logs(cluster)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(v.Parallel)
	for _, l := range logs {
		if err := v.entries(ctx, g, l); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	return g.Wait()
}

// entries walks a partition's entries and lets g verify their objects.
func (v *run) entries(ctx context.Context, g *errgroup.Group, l log) error {
	var last *catalog.Segment
	for from := kafka.Offset(0); ; {
		page, err := get(ctx, func(ctx context.Context) ([]catalog.Segment, error) {
			return v.Catalog.Segments(ctx, l.tp, from, pageSize)
		})
		if err != nil {
			return err
		}
		for _, s := range page {
			if err := v.entry(ctx, l, last, s); err != nil {
				return err
			}
			last = &s
			g.Go(func() error { return v.segment(ctx, l, s) })
		}
		if len(page) < pageSize {
			return nil
		}
		from = last.End
	}
}

// entry checks an entry's offsets against those of the one before it.
func (v *run) entry(ctx context.Context, l log, last *catalog.Segment, s catalog.Segment) error {
	if s.End < s.Base || s.Key != "" && s.End == s.Base {
		v.found(l.finding(Invalid, s.Base, s.Key, "its entry ends at offset %d", s.End))
	}
	if last == nil {
		return v.beginning(ctx, l, s)
	}
	k := Gap
	if last.End > s.Base {
		k = Overlap
	}
	if last.End == s.Base || !v.stillNamed(ctx, s) || !v.stillNamed(ctx, *last) {
		return nil
	}
	if start, err := v.start(ctx, l); err != nil || k == Gap && start >= s.Base {
		return err // DeleteRecords removed what was not sealed yet
	}
	v.found(l.finding(k, s.Base, s.Key, "the segment before ends at offset %d", last.End))
	return nil
}

// beginning checks that the first entry has all from the log's start on.
func (v *run) beginning(ctx context.Context, l log, first catalog.Segment) error {
	if first.Base == 0 {
		return nil
	}
	start, err := v.start(ctx, l)
	if err == nil && start < first.Base && v.stillNamed(ctx, first) {
		v.found(l.finding(Gap, start, "", "the log starts there, its first segment at offset %d", first.Base))
	}
	return err
}

func (v *run) start(ctx context.Context, l log) (kafka.Offset, error) {
	starts, err := v.starts(ctx, []kafka.Slot{l.slot})
	return starts[l.tp], err
}

// segment verifies a segment's object.
func (v *run) segment(ctx context.Context, l log, s catalog.Segment) error {
	if s.Key == "" {
		return nil
	}
	v.mu.Lock()
	v.report.Segments++
	v.report.Records += s.Records
	v.mu.Unlock()
	err := v.readSegment(ctx, s)
	v.progress.Objects.Add(1)
	v.progress.Bytes.Add(s.Size)
	k, wrong := kindOf(err)
	switch {
	case err == nil, wrong && !v.stillNamed(ctx, s):
		return nil
	case wrong:
		v.found(l.finding(k, s.Base, s.Key, "%v", err))
		return nil
	}
	return err
}

func (v *run) readSegment(ctx context.Context, s catalog.Segment) error {
	if v.Quick {
		return cold.CheckSegment(ctx, v.Store, s)
	}
	return cold.VerifySegment(ctx, v.Store, s)
}

// kindOf tells what an error of reading says about an object; wrong is false
// for those that say nothing.
func kindOf(err error) (k Kind, wrong bool) {
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return Missing, true
	case errors.Is(err, bundle.ErrCorrupt), errors.Is(err, io.ErrUnexpectedEOF):
		return Corrupt, true
	}
	return "", false
}

// stillNamed tells whether the catalogue has an entry as it was read. Where it
// can't be told it counts as there.
func (v *run) stillNamed(ctx context.Context, s catalog.Segment) bool {
	now, err := get(ctx, func(ctx context.Context) ([]catalog.Segment, error) {
		return v.Catalog.Segments(ctx, s.TP, max(s.End-1, s.Base), 1)
	})
	return err != nil || len(now) > 0 && now[0].Base == s.Base && now[0].End == s.End && now[0].Key == s.Key
}
