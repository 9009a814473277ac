// Package replay reads topics straight from the object store and the
// catalogue, without a broker and without writing anything: whether brokers run
// or not makes no difference to it.
//
//	catalogue ─▶ sealed segments ─┐                     ┌▶ load ─┐
//	slot items ─▶ checkpoints,    ├▶ chunks, by offset ─┼▶ load ─┼▶ blocks, in order ─▶ records
//	              WAL footers ────┘                     └▶ load ─┘
//
// For each partition, chunks of its log are planned in the order of their
// offsets, loaded many at a time (ranged reads, checksums, decompression), and delivered in
// order. All partitions are read in parallel; what is held is bounded by Options.MemoryBytes.
//
// A log has moved on before it is read to its end: retention removes segments,
// compaction replaces them, checkpoints take the place of WAL objects. An
// object that is missing is therefore looked up anew in the catalogue, and only one
// that is still named there is an error (ErrLost).
//
// What is read is durable, and below the last stable offset for Committed.
package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/recovery"
)

// Errors of a replay.
var (
	// ErrNoTopic means that there is no topic, or partition, of that name.
	ErrNoTopic = errors.New("replay: no such topic or partition")
	// ErrOutOfRange means that an offset that was asked for is not in the log:
	// removed by retention or DeleteRecords, or behind the end.
	ErrOutOfRange = errors.New("replay: offset out of range")
	// ErrLost means that an object that the catalogue names is missing, or that
	// offsets are that it should have and has not. It is damage: `varve verify` tells more.
	ErrLost = errors.New("replay: the log has lost records")
)

// Options say what to read. Only Topic is required.
type Options struct {
	Topic      string
	Partitions []int32 // nil: all
	From       Bound   // where to begin; zero: the beginning
	To         Bound   // where to stop, exclusive; zero: the end as it is now
	// Resume begins each partition that it names there instead of at From. It is of
	// the same topic, not of another one of its name.
	Resume *Position
	// Committed leaves out records of aborted transactions, and stops before
	// open ones (read_committed, KIP-98).
	Committed bool
	// Follow goes on with what is appended, looking each Poll (0: 500 ms),
	// until the context ends. To is not used. `varve consume` of a broker has less delay.
	Follow bool
	Poll   time.Duration

	MemoryBytes int64 // bound of the loaded records, but for one batch a partition; 0: 256 MiB
	Parallel    int   // reads at a time; 0: 16
}

const (
	defaultMemory   = 256 << 20
	defaultParallel = 16
	defaultPoll     = 500 * time.Millisecond
	callTimeout     = 30 * time.Second
)

func (o *Options) setDefaults() error {
	if o.Topic == "" {
		return errors.New("replay options: no topic")
	}
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = defaultMemory
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Poll <= 0 {
		o.Poll = defaultPoll
	}
	return nil
}

// Replay is a reading of one topic. Records and Each read on from where the last
// reading stopped; one at a time. The other methods may be called meanwhile.
type Replay struct {
	o     Options
	src   *Source
	topic catalog.Topic
	parts []*partition
	tails *tails
	free  freeBlocks
	count counters
}

// partition is one partition's part of a replay.
type partition struct {
	tp    kafka.TopicPartition
	slot  kafka.Slot
	from  kafka.Offset
	to    kafka.Offset // exclusive; when following, as it was at Open
	exact bool         // from was asked for by offset: nothing may be passed over

	next atomic.Int64 // the offset behind the last record that was delivered
}

// counters are those of Progress.
type counters struct {
	records, bytes, read, removed atomic.Int64
}

// Open finds out where each partition is read from and to. Errors: ErrNoTopic,
// ErrOutOfRange, ErrLost; those of the stores.
func Open(ctx context.Context, src *Source, o Options) (*Replay, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	r := &Replay{o: o, src: src}
	if err := r.open(ctx); err != nil {
		return nil, fmt.Errorf("open replay of %q: %w", o.Topic, err)
	}
	return r, nil
}

func (r *Replay) open(ctx context.Context) error {
	if err := bounded(ctx, r.src.cat.Refresh); err != nil {
		return err
	}
	topic, ok := r.src.cat.Topics().ByName(r.o.Topic)
	if !ok {
		return ErrNoTopic
	}
	r.topic = *topic
	if p := r.o.Resume; p != nil && p.TopicID != topic.ID.Hex() {
		return fmt.Errorf("%w: the position is of another topic of that name", ErrNoTopic)
	}
	cluster, err := r.src.cluster(ctx)
	if err != nil {
		return err
	}
	numbers := r.o.Partitions
	if numbers == nil {
		for p := range topic.Partitions {
			numbers = append(numbers, p)
		}
	}
	slots := make(map[kafka.Slot]bool)
	for _, n := range numbers {
		if n < 0 || n >= topic.Partitions {
			return fmt.Errorf("%w: partition %d of %d", ErrNoTopic, n, topic.Partitions)
		}
		p := &partition{tp: kafka.TopicPartition{Topic: topic.ID, Partition: n}, slot: kafka.PartitionSlot(topic.Name, n, cluster.Slots)}
		r.parts, slots[p.slot] = append(r.parts, p), true
	}
	r.tails = newTails(r.src.observe(slots))
	if _, err := r.tails.renew(ctx, 0); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Parallel)
	for _, p := range r.parts {
		g.Go(func() error {
			if err := r.bound(ctx, p); err != nil {
				return fmt.Errorf("partition %d: %w", p.tp.Partition, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// end returns up to where a partition can be read: its durable end, or its
// last stable offset; and its durable end.
func (r *Replay) end(ctx context.Context, p *partition, t recovery.Tail) (readable, end kafka.Offset, err error) {
	newest, _, err := r.newestSegment(ctx, p.tp)
	if err != nil {
		return 0, 0, err
	}
	stable := t.State.LastStable
	if end = t.State.NextOffset; end < newest.End { // sealed since the look, or there is no tail at all
		if end, stable = newest.End, newest.End; r.o.Committed && newest.Key != "" {
			footer, err := r.src.cold.Footer(ctx, newest)
			if err != nil {
				return 0, 0, err
			}
			stable = footer.State.LastStable
		}
	}
	if r.o.Committed {
		return stable, end, nil
	}
	return end, end, nil
}

func (r *Replay) newestSegment(ctx context.Context, tp kafka.TopicPartition) (seg catalog.Segment, ok bool, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		seg, ok, err = r.src.cat.NewestSegment(ctx, tp)
		return err
	})
	return seg, ok, err
}

func (r *Replay) logStart(ctx context.Context, p *partition) (start kafka.Offset, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		starts, err := r.src.cat.LogStarts(ctx, p.slot)
		start = starts[p.tp]
		return err
	})
	return start, err
}

// Range is what is read of a partition.
type Range struct {
	Partition int32
	From, To  int64 // offsets, To exclusive; when following, To is the end at Open
}

// Ranges returns what is read of each partition, in their order.
func (r *Replay) Ranges() []Range {
	all := make([]Range, len(r.parts))
	for i, p := range r.parts {
		all[i] = Range{Partition: p.tp.Partition, From: int64(p.from), To: int64(p.to)}
	}
	slices.SortFunc(all, func(a, b Range) int { return int(a.Partition - b.Partition) })
	return all
}

// Position returns from where to read on: behind the last record that was
// delivered of each partition. A record counts as soon as its step of the loop has ended,
// by break as well.
func (r *Replay) Position() Position {
	pos := Position{Topic: r.topic.Name, TopicID: r.topic.ID.Hex(), Next: make(map[int32]int64, len(r.parts))}
	for _, p := range r.parts {
		pos.Next[p.tp.Partition] = p.next.Load()
	}
	return pos
}

// Progress is how far a replay has come.
type Progress struct {
	Offsets, Total int64 // offsets passed, and to be passed in all, as Ranges has them
	Records        int64 // loaded
	Bytes          int64 // of their batches, decompressed as far as the log's own compression goes
	ReadBytes      int64 // read from the object store
	Removed        int64 // offsets passed over because retention was faster
}

// Progress returns how far the replay has come.
func (r *Replay) Progress() Progress {
	c := &r.count
	g := Progress{Records: c.records.Load(), Bytes: c.bytes.Load(), ReadBytes: c.read.Load(), Removed: c.removed.Load()}
	for _, p := range r.parts {
		g.Offsets += p.next.Load() - int64(p.from)
		g.Total += int64(p.to - p.from)
	}
	return g
}

// LiveOptions returns the options of a franz-go client that consumes on from
// where the replay has stopped, without gap or duplicate; SeedBrokers and what else
// a connection needs are to be added. Where a broker does not have an offset any more the
// client says so instead of jumping.
func (r *Replay) LiveOptions() []kgo.Opt {
	next := make(map[int32]kgo.Offset, len(r.parts))
	for _, p := range r.parts {
		next[p.tp.Partition] = kgo.NewOffset().At(p.next.Load())
	}
	opts := []kgo.Opt{
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.topic.Name: next}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	}
	if r.o.Committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return opts
}

func bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return fn(ctx)
}
