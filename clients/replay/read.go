package replay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

const (
	maxTarget = 4 << 20 // bytes of a chunk
	minTarget = 512 << 10
	backlog   = 1 // chunks loaded of a partition besides its share of Parallel
)

// reading is one pass of a replay.
type reading struct {
	*Replay
	memory *semaphore.Weighted // bytes
	reads  *semaphore.Weighted
	loads  *errgroup.Group
}

// pending is a block that is being loaded.
type pending struct {
	partition int32
	done      chan struct{} // closed once the others are set
	block     *block
	err       error
}

// Records returns the records of all partitions, those of a partition in the
// order of their offsets. A record and all that it refers to is valid until the next
// step: who keeps one copies it. An error is the last that it yields; Position then
// is right, and another call goes on from there.
func (r *Replay) Records(ctx context.Context) iter.Seq2[*kgo.Record, error] {
	return func(yield func(*kgo.Record, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		blocks, failed := make(chan *block), make(chan error, 1)
		go func() { // awaited below: blocks is closed when it ends
			defer close(blocks)
			failed <- r.stream(ctx, func(*partition) sink { return sink{blocks: blocks} })
		}()
		defer func() {
			cancel()
			for range blocks { // until it has ended
			}
		}()
		d := newDelivery(r, yield)
		for b := range blocks {
			if !d.block(b) {
				return
			}
		}
		if err := <-failed; err != nil {
			yield(nil, err)
		}
	}
}

// Each calls fn once for every partition, all at the same time, with the
// partition's records in the order of their offsets, and returns the first error. Records
// are as those of Records. A call must not wait for another one: they share memory.
func (r *Replay) Each(ctx context.Context, fn func(partition int32, records iter.Seq2[*kgo.Record, error]) error) error {
	g, ctx := errgroup.WithContext(ctx)
	blocks, done := make(map[*partition]chan *block, len(r.parts)), make(map[*partition]chan struct{}, len(r.parts))
	for _, p := range r.parts {
		blocks[p], done[p] = make(chan *block), make(chan struct{})
	}
	g.Go(func() error {
		defer func() {
			for _, b := range blocks {
				close(b)
			}
		}()
		return r.stream(ctx, func(p *partition) sink { return sink{blocks[p], done[p]} })
	})
	for _, p := range r.parts {
		g.Go(func() error {
			defer close(done[p])
			return fn(p.tp.Partition, r.of(ctx, blocks[p]))
		})
	}
	return g.Wait()
}

// of yields the records of blocks.
func (r *Replay) of(ctx context.Context, blocks <-chan *block) iter.Seq2[*kgo.Record, error] {
	return func(yield func(*kgo.Record, error) bool) {
		d := newDelivery(r, yield)
		for b := range blocks {
			if !d.block(b) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// sink is where a partition's blocks go, until done is closed.
type sink struct {
	blocks chan<- *block
	done   <-chan struct{} // nil: never
}

// errEnough ends a partition whose records nobody wants any more.
var errEnough = errors.New("enough")

// stream loads all partitions and sends their blocks, in order, to their
// sinks, until all is sent, ctx ends or something fails.
func (r *Replay) stream(ctx context.Context, to func(*partition) sink) error {
	defer r.free.drop()
	g, ctx := errgroup.WithContext(ctx)
	active := 1
	for _, p := range r.parts {
		if r.o.Follow || p.next.Load() < int64(p.to) {
			active++
		}
	}
	w := &reading{Replay: r, memory: semaphore.NewWeighted(r.o.MemoryBytes), reads: semaphore.NewWeighted(int64(r.o.Parallel)), loads: g}
	if r.o.Follow {
		g.Go(func() error { return w.poll(ctx) })
	}
	for _, p := range r.parts {
		queue := make(chan *pending, r.o.Parallel/active+backlog)
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		run := func(fn func() error) {
			g.Go(func() error {
				if err := fn(); err != nil && !errors.Is(context.Cause(ctx), errEnough) {
					return err
				}
				return nil
			})
		}
		run(func() error {
			defer close(queue)
			return w.feed(ctx, p, queue)
		})
		run(func() error { return w.deliver(ctx, stop, queue, to(p)) })
	}
	return g.Wait()
}

// feed plans a partition and lets its chunks be loaded, as far as there is room.
func (w *reading) feed(ctx context.Context, p *partition, queue chan<- *pending) error {
	target := min(max(w.o.MemoryBytes/int64(w.o.Parallel*weightFactor), minTarget), maxTarget)
	plan := planner{r: w.Replay, p: p, target: target, emit: func(c chunk) error { return w.start(ctx, p, c, queue) }}
	next, to := kafka.Offset(p.next.Load()), p.to
	for {
		if err := plan.plan(ctx, next, to); err != nil {
			return fmt.Errorf("replay %s, partition %d: %w", w.o.Topic, p.tp.Partition, err)
		}
		if !w.o.Follow {
			return nil
		}
		next = max(next, to)
		var err error
		if to, err = w.awaitMore(ctx, p, next); err != nil {
			return err
		}
	}
}

// start begins to load a chunk. A partition's chunks get their memory in
// order, so the one that is to be delivered next never waits for one behind it.
func (w *reading) start(ctx context.Context, p *partition, c chunk, queue chan<- *pending) error {
	next := &pending{partition: p.tp.Partition, done: make(chan struct{})}
	select {
	case queue <- next:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	weight := min(c.bytes*weightFactor, w.o.MemoryBytes)
	if err := w.memory.Acquire(ctx, weight); err != nil {
		return err
	}
	if err := w.reads.Acquire(ctx, 1); err != nil {
		return err
	}
	w.loads.Go(func() error {
		defer w.reads.Release(1)
		defer close(next.done)
		next.block, next.err = w.load(ctx, p, c)
		if next.err == nil {
			next.block.weight, next.block.memory = weight, w.memory
		}
		return nil // deliver tells the error, in its place
	})
	return nil
}

// deliver sends a partition's blocks, in order.
func (w *reading) deliver(ctx context.Context, stop context.CancelCauseFunc, queue <-chan *pending, to sink) error {
	for next := range queue {
		select {
		case <-next.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if next.err != nil {
			return fmt.Errorf("replay %s, partition %d: %w", w.o.Topic, next.partition, next.err)
		}
		select {
		case to.blocks <- next.block:
		case <-to.done:
			stop(errEnough)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// poll looks at the tails again and again.
func (w *reading) poll(ctx context.Context) error {
	tick := time.NewTicker(w.o.Poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := w.tails.renew(ctx, w.tails.now().number); err != nil {
			return err
		}
	}
}

// awaitMore waits until a partition ends behind next.
func (w *reading) awaitMore(ctx context.Context, p *partition, next kafka.Offset) (kafka.Offset, error) {
	for {
		s := w.tails.now()
		if end, _, err := w.end(ctx, p, s.of(p.tp)); err != nil || end > next {
			return end, err
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (r *Replay) release(b *block) {
	b.memory.Release(b.weight)
	b.memory = nil
	r.free.give(b)
}

// delivery hands the records of blocks to a loop.
type delivery struct {
	r      *Replay
	yield  func(*kgo.Record, error) bool
	reader record.Reader
	in     record.Record
	out    kgo.Record
}

func newDelivery(r *Replay, yield func(*kgo.Record, error) bool) *delivery {
	return &delivery{r: r, yield: yield, out: kgo.Record{Topic: r.topic.Name}}
}

// block delivers a block and releases it. false: the loop has ended.
func (d *delivery) block(b *block) bool {
	defer d.r.release(b)
	d.out.Partition = b.p.tp.Partition
	for i := range b.batches {
		if more := d.batch(b, &b.batches[i]); !more {
			return false
		}
	}
	b.p.next.Store(int64(b.to))
	return true
}

func (d *delivery) batch(b *block, one *batch) bool {
	h := &one.head
	if one.body != nil {
		d.reader.ResetPlain(one.body, h.NumRecords)
	} else if err := d.reader.Reset(one.raw, record.MaxDecompressed); err != nil {
		return d.fail(b, h.BaseOffset, err)
	}
	d.out.LeaderEpoch, d.out.ProducerID, d.out.ProducerEpoch = int32(h.LeaderEpoch), h.ProducerID, h.ProducerEpoch
	for {
		ok, err := d.reader.Next(&d.in)
		if err != nil {
			return d.fail(b, h.BaseOffset, err)
		}
		if !ok {
			return true
		}
		off := h.BaseOffset + kafka.Offset(d.in.OffsetDelta)
		if off < b.from || off >= b.to {
			continue
		}
		d.record(h, off)
		more := d.yield(&d.out, nil)
		b.p.next.Store(int64(off + 1))
		if !more {
			return false
		}
	}
}

// record makes d.out of d.in.
func (d *delivery) record(h *record.Header, off kafka.Offset) {
	ms := h.MaxTimestamp
	if !h.LogAppendTime() {
		ms = h.FirstTimestamp + d.in.TimestampDelta
	}
	d.out.Offset, d.out.Timestamp = int64(off), time.UnixMilli(ms)
	d.out.Key, d.out.Value = d.in.Key, d.in.Value
	d.out.Headers = d.out.Headers[:0]
	for _, kv := range d.in.Headers {
		d.out.Headers = append(d.out.Headers, kgo.RecordHeader{Key: kv.Key, Value: kv.Value})
	}
}

func (d *delivery) fail(b *block, at kafka.Offset, err error) bool {
	d.yield(nil, fmt.Errorf("replay %s, partition %d: batch at offset %d: %w", d.r.o.Topic, b.p.tp.Partition, at, err))
	return false
}
