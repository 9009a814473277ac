package rebuild

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// nameTopics decides about the cluster and gives names to topics that have none: the
// name decides in which slots a topic's partitions lie, so that it has to fit.
func (s *scan) nameTopics() {
	cl := catalog.Cluster{Slots: s.slots(), Level: catalog.Level}
	if m := s.manifest; m != nil {
		cl = catalog.Cluster(m.Cluster)
	} else {
		var id [16]byte
		_, _ = rand.Read(id[:]) // it does not fail
		id[0] &= 0x7f
		cl.ID = kafka.TopicID(id).String()
	}
	s.plan.cluster, s.report.ClusterID, s.report.Slots = cl, cl.ID, cl.Slots
	for id := range s.topics {
		t := s.topics[id]
		if t.Name == "" {
			t.Name = s.madeUp(id)
			s.report.found(Note, "topic %s has no name any more, and is called %s", id.Hex(), t.Name)
		}
		s.report.Partitions += int(t.Partitions)
		s.plan.topics = append(s.plan.topics, *t)
	}
	slices.SortFunc(s.plan.topics, func(a, b catalog.Topic) int { return strings.Compare(a.Name, b.Name) })
	s.report.Topics = len(s.plan.topics)
	for tp, l := range s.logs {
		if t := s.topics[tp.Topic]; t != nil && l.slot >= 0 && kafka.PartitionSlot(t.Name, tp.Partition, cl.Slots) != l.slot {
			s.report.found(Broken, "topic %s is not called %s, or there are not %d slots: its partition %d lies in slot %d", id(tp), t.Name, cl.Slots, tp.Partition, l.slot)
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.unnamed), func(a, b kafka.TopicID) int { return slices.Compare(a[:], b[:]) }) {
		s.report.found(Note, "topic %s is left out: the manifest does not have it. It was deleted, or made just before the catalogue was lost", id.Hex())
	}
}

func id(tp kafka.TopicPartition) string { return tp.Topic.Hex() }

// slots returns the number of slots where no manifest has it.
func (s *scan) slots() int {
	if s.o.Slots > 0 {
		return s.o.Slots
	}
	n := 256
	for slot := range s.epochs {
		if int(slot) >= n {
			n = 4096
		}
	}
	return n
}

// madeUp returns a name whose slots are those that the footers say.
func (s *scan) madeUp(id kafka.TopicID) string {
	count := s.slots()
	if s.manifest != nil {
		count = s.manifest.Cluster.Slots
	}
	for n := 0; ; n++ {
		name := fmt.Sprintf("unnamed-%s-%d", id.Hex(), n)
		fits := true
		for tp, l := range s.logs {
			if tp.Topic == id && l.slot >= 0 {
				fits = kafka.PartitionSlot(name, tp.Partition, count) == l.slot
				break // one decides about all
			}
		}
		if fits || n > 1<<20 {
			return name
		}
	}
}

// settleLogs decides about the logs' starts, and enters what stands for the
// offsets that no object has.
func (s *scan) settleLogs(ctx context.Context) error {
	logs := slices.SortedFunc(maps.Keys(s.logs), kafka.TopicPartition.Compare)
	for _, tp := range logs {
		t := s.topics[tp.Topic]
		if t == nil {
			continue
		}
		l := s.logs[tp]
		if err := s.settleLog(ctx, t, tp, l); err != nil {
			return err
		}
		if l.start > 0 {
			slot := kafka.PartitionSlot(t.Name, tp.Partition, s.plan.cluster.Slots)
			if s.plan.starts[slot] == nil {
				s.plan.starts[slot] = make(map[kafka.TopicPartition]kafka.Offset)
			}
			s.plan.starts[slot][tp] = l.start
		}
	}
	return nil
}

func (s *scan) settleLog(ctx context.Context, t *catalog.Topic, tp kafka.TopicPartition, l *log) error {
	first := l.base
	if l.segments == 0 {
		first = max(l.sealedEnd, l.cut.To)
	}
	if first > l.start {
		k := Note
		if s.manifest != nil {
			k = Undecided // it says that they should be there
		}
		s.report.found(k, "%s-%d: offsets %d to %d are in no object: retention has removed them, or they are lost; the log starts behind them", t.Name, tp.Partition, l.start, first-1)
		l.start = first
	}
	missing := l.missing
	if l.sealedEnd > l.end { // the newest entries have no objects, as retention leaves them, or they are lost
		if missing = append(missing, Run{l.end, l.sealedEnd}); l.segments > 0 && l.start < l.sealedEnd {
			s.lost(t, tp, missing[len(missing)-1])
		}
	}
	if l.segments > 0 && l.cut.To > 0 {
		missing = append(missing, l.cut)
		s.report.found(Undecided, "%s-%d: offsets %d to %d: no checkpoint has them: DeleteRecords has removed them, and all before them, or they are lost", t.Name, tp.Partition, l.cut.From, l.cut.To-1)
	}
	for _, r := range l.missing {
		if r.To > l.start {
			s.lost(t, tp, r)
		}
	}
	if len(missing) == 0 && l.segments == 0 {
		return nil
	}
	now := time.Now().UnixMilli()
	var segs []catalog.Segment
	err := within(ctx, writeTimeout, func(ctx context.Context) (err error) {
		segs, err = s.scratch.Segments(ctx, tp, 0, 0)
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range missing {
		segs = append(segs, catalog.Segment{TP: tp, Base: r.From, End: r.To, FirstTimestamp: -1, MaxTimestamp: -1})
	}
	for i := range segs {
		segs[i].CreatedMs = now
	}
	return s.enter(ctx, tp, segs)
}

// lost tells of offsets that no object has. Where records are compacted nothing may
// have been left of them.
func (s *scan) lost(t *catalog.Topic, tp kafka.TopicPartition, r Run) {
	k, why := Lost, "no object has them"
	policy := t.Configs["cleanup.policy"]
	if policy == "" && s.manifest != nil {
		policy = s.manifest.Brokers[""]["log.cleanup.policy"]
	}
	if strings.Contains(policy, "compact") || s.manifest == nil {
		k, why = Undecided, "no object has them: they are lost, or compaction has left nothing of them"
	}
	s.report.found(k, "%s-%d: offsets %d to %d: %s", t.Name, tp.Partition, r.From, r.To-1, why)
}

// proveTails recovers all tails from the rebuilt catalogue, as brokers will.
func (s *scan) proveTails(ctx context.Context) error {
	numbers := make([]kafka.Slot, 0, len(s.plan.slots))
	for _, slot := range s.plan.slots {
		numbers = append(numbers, slot.Slot)
	}
	err := s.look(ctx, numbers)
	if err == nil || !unfit(err) {
		return err
	}
	for _, n := range numbers { // which of them
		if err := s.look(ctx, []kafka.Slot{n}); unfit(err) {
			s.report.found(Broken, "slot %d: %v", n, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) look(ctx context.Context, numbers []kafka.Slot) error {
	_, err := recovery.NewObserver(s.o.Store, s.scratch, numbers).Look(ctx)
	return err
}

// unfit tells the errors that say that the objects do not make up the tails.
func unfit(err error) bool {
	for _, e := range []error{wal.ErrHole, recovery.ErrInconsistent, objstore.ErrNotFound, bundle.ErrCorrupt, catalog.ErrNotFound} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
