package enginetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const racks = 3

// rackOf is the rack of a broker's next process: one of the first two, until the broker moves.
func (c *cluster) rackOf(id int32) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rack, ok := c.racks[id]; ok {
		return rack
	}
	return rackName(int(id) % 2)
}

func rackName(n int) string { return fmt.Sprintf("rack-%d", n) }

// moveRack puts a broker's next process in a rack.
func (c *cluster) moveRack(id int32, rack string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.racks[id] = rack
}

// checkRacks waits until brokers are told to be where they run, slots are even, and each
// partition has replicas in as many racks as it can.
func (w *world) checkRacks(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	bad := "nothing was told"
	if overdue(ctx, 2*time.Minute, time.Second, func() bool {
		if m, err := kadm.NewClient(cl.Client).Metadata(ctx, keptTopic); err == nil {
			bad = w.misplaced(m)
		}
		return bad == ""
	}) {
		w.report("racks: %s", bad)
	}
}

// misplaced tells what is wrong with where brokers, slots and replicas are.
func (w *world) misplaced(m kadm.Metadata) string {
	rack, all, count := make(map[int32]string), make(map[string]bool), make(map[int32]int)
	for _, b := range m.Brokers {
		if b.Rack != nil {
			rack[b.NodeID], all[*b.Rack] = *b.Rack, true
		}
	}
	for _, id := range w.ids {
		if p := w.life(id); rack[id] != p.rack {
			return fmt.Sprintf("broker %d is in %q, told is %q", id, p.rack, rack[id])
		}
	}
	owners := w.owners()
	for _, id := range owners {
		count[id]++
	}
	for _, id := range w.ids {
		if least := len(owners) / len(w.ids); count[id] < least || count[id] > least+1 {
			return fmt.Sprintf("slots are uneven: %v", count)
		}
	}
	for _, p := range m.Topics[keptTopic].Partitions {
		in := make(map[string]bool)
		for _, id := range p.Replicas {
			in[rack[id]] = true
		}
		if len(in) < min(len(all), len(p.Replicas)) || len(p.Replicas) == 0 {
			return fmt.Sprintf("partition %d has its replicas %v in %d of %d racks", p.Partition, p.Replicas, len(in), len(all))
		}
	}
	return ""
}

// rackReader is a consumer in a rack, which reads from leaders and followers as they
// tell it (KIP-392). Its fields are guarded by world.mu.
type rackReader struct {
	rack     string
	next     map[int32]int64
	consumed map[place]string
}

// reader returns a consumer in a rack that has read nothing yet.
func (w *world) reader(rack string) *rackReader {
	r := &rackReader{rack: rack, next: make(map[int32]int64), consumed: make(map[place]string)}
	w.readers = append(w.readers, r)
	return r
}

// readInRack reads keptTopic from its beginning, through all that happens, until
// ctx ends: one client after the other, each from where the last one was.
func (w *world) readInRack(ctx context.Context, r *rackReader) {
	for ctx.Err() == nil {
		span := time.Second + w.dice.upTo(r.rack, 20*time.Second)
		if w.cluster.faults.isCalm() {
			span = time.Hour
		}
		life, cancel := context.WithTimeout(ctx, span)
		w.readLife(life, r)
		cancel()
	}
}

// readLife is one client's life.
func (w *world) readLife(ctx context.Context, r *rackReader) {
	from := make(map[int32]kgo.Offset)
	w.mu.Lock()
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().At(r.next[p])
	}
	w.mu.Unlock()
	cl := w.client(kgo.Rack(r.rack), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{keptTopic: from}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(300*time.Millisecond))
	defer cl.Close()
	marks := make(map[int32]int64)
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		fetches.EachError(func(_ string, p int32, err error) {
			var lost *kgo.ErrDataLoss
			if errors.Is(err, kerr.OffsetOutOfRange) || errors.As(err, &lost) {
				w.report("%s: partition %d at %d: %v", r.rack, p, r.next[p], err)
			}
		})
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if f.Err == nil && f.HighWatermark < marks[f.Partition] {
				w.report("%s: partition %d: high watermark %d after %d", r.rack, f.Partition, f.HighWatermark, marks[f.Partition])
			}
			marks[f.Partition] = max(marks[f.Partition], f.HighWatermark)
			f.EachRecord(func(rec *kgo.Record) { w.readRecord(r, rec, marks[f.Partition]) })
			w.isDurable(r.rack, f.Partition, marks[f.Partition])
		})
	}
}

// readRecord notes a record, which must be the next one, below the high watermark.
func (w *world) readRecord(r *rackReader, rec *kgo.Record, mark int64) {
	if rec.Offset != r.next[rec.Partition] || rec.Offset >= mark {
		w.report("%s: partition %d: offset %d where %d should be, the high watermark is %d", r.rack, rec.Partition, rec.Offset, r.next[rec.Partition], mark)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.next[rec.Partition] = rec.Offset + 1
	r.consumed[place{rec.Partition, rec.Offset}] = string(rec.Value)
}

// awaitReaders waits until the consumers in racks have read all, and compares it with the log.
func (w *world) awaitReaders(ctx context.Context) {
	if overdue(ctx, 3*time.Minute, time.Second, func() bool { return w.unread() == "" }) {
		w.report("%s", w.unread())
	}
}

// unread tells what a consumer in a rack has not read, or has read differently.
func (w *world) unread() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.readers {
		for _, s := range w.read {
			if got, ok := r.consumed[place{s.partition, s.offset}]; !ok || got != s.value {
				return fmt.Sprintf("%s: %d/%d is %q and was read as %q (%v)", r.rack, s.partition, s.offset, s.value, got, ok)
			}
		}
		if len(r.consumed) > len(w.read) {
			return fmt.Sprintf("%s: %d records read, the log has %d", r.rack, len(r.consumed), len(w.read))
		}
	}
	return ""
}

// counted returns a counter of a broker's, or a gauge.
func counted(reg *prometheus.Registry, name string) int {
	families, err := reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			one := f.GetMetric()[0]
			return int(one.GetCounter().GetValue() + one.GetGauge().GetValue())
		}
	}
	return 0
}
