package enginetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// How many records a producer writes.
const (
	minRecords = 20
	maxRecords = 250
)

// insist calls fn until it succeeds or ctx ends.
func insist(ctx context.Context, fn func() error) bool {
	for ctx.Err() == nil {
		if fn() == nil {
			return true
		}
		wait(ctx, 100*time.Millisecond)
	}
	return false
}

func (w *world) createTopics(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	short := fmt.Sprint(retention.Milliseconds())
	insist(ctx, func() (err error) {
		if err = createTopic(ctx, cl, keptTopic, partitions, nil); err == nil {
			w.kept, err = topicID(ctx, cl, keptTopic)
		}
		return err
	})
	insist(ctx, func() error { return createTopic(ctx, cl, movedTopic, partitions, nil) })
	insist(ctx, func() error {
		return createTopic(ctx, cl, trimmedTopic, 1, map[string]*string{"retention.ms": &short, "segment.ms": kadm.StringPtr("1000")})
	})
	insist(ctx, func() error {
		return createTopic(ctx, cl, compactedTopic, 1, map[string]*string{
			"cleanup.policy": kadm.StringPtr("compact"), "segment.ms": kadm.StringPtr("1000"), "min.cleanable.dirty.ratio": kadm.StringPtr("0"),
		})
	})
}

// createTopic makes sure that a topic is there.
func createTopic(ctx context.Context, cl *client, name string, partitions int32, configs map[string]*string) error {
	r, err := kadm.NewClient(cl.Client).CreateTopic(ctx, partitions, -1, configs, name)
	if err == nil {
		err = r.Err
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil // an earlier attempt
	}
	return err
}

// producer returns a client that has its producer id: it would ask for one with
// a mutex held, for which others wait, and that stops the bubble's time.
func (w *world) producer(ctx context.Context, opts ...kgo.Opt) *client {
	cl := w.client(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond), kgo.ProduceRequestTimeout(5*time.Second))...)
	insist(ctx, func() error {
		_, _, err := cl.ProducerID(ctx)
		return err
	})
	return cl
}

// produce writes until trouble is over, to random partitions.
func (w *world) produce(ctx, trouble context.Context, id int) {
	cl := w.producer(ctx)
	defer cl.Close()
	defer context.AfterFunc(ctx, cl.Close)() // ends what still waits
	stream := fmt.Sprintf("producer %d", id)
	var answers sync.WaitGroup
	for n := 0; n < minRecords || trouble.Err() == nil && n < maxRecords; n++ {
		s := sent{producer: id, n: n, partition: int32(w.dice.below(stream, partitions))}
		answers.Add(1)
		cl.Produce(ctx, &kgo.Record{Topic: keptTopic, Partition: s.partition, Value: []byte(valueOf(id, n))}, func(r *kgo.Record, err error) {
			defer answers.Done()
			s.acked, s.offset = err == nil, r.Offset
			w.sent(s)
		})
		wait(trouble, w.dice.upTo(stream, 250*time.Millisecond))
	}
	answers.Wait()
}

// sent notes what became of a record. Two at one place are seen here already.
func (w *world) sent(s sent) {
	at := place{s.partition, s.offset}
	w.mu.Lock()
	w.history = append(w.history, s)
	other, taken := w.acks[at]
	if s.acked {
		w.acks[at] = valueOf(s.producer, s.n)
	}
	w.mu.Unlock()
	if s.acked && taken {
		w.report("%q was acknowledged at %v, as was %q", valueOf(s.producer, s.n), at, other)
	}
}

// readAll reads the whole topic, up to the ends that it has now.
func (w *world) readAll(ctx context.Context) {
	cl := w.client(kgo.ConsumeTopics(keptTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	w.read = nil
	left := 0
	for _, end := range w.ends(ctx, cl, keptTopic) {
		left += int(end)
	}
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for len(w.read) < left && limit.Err() == nil {
		cl.PollFetches(limit).EachRecord(func(r *kgo.Record) {
			w.read = append(w.read, seen{r.Partition, r.Offset, string(r.Value)})
		})
	}
}

// ends returns where the partitions of a topic end, when all is calm.
func (w *world) ends(ctx context.Context, cl *client, topic string) map[int32]int64 {
	return w.list(ctx, func() (kadm.ListedOffsets, error) { return kadm.NewClient(cl.Client).ListEndOffsets(ctx, topic) })
}

// list lists offsets, again while partitions move.
func (w *world) list(ctx context.Context, fn func() (kadm.ListedOffsets, error)) map[int32]int64 {
	var listed kadm.ListedOffsets
	var err error
	if overdue(ctx, time.Minute, 100*time.Millisecond, func() bool {
		listed, err = fn()
		err = errors.Join(err, listed.Error())
		return err == nil
	}) {
		w.report("list offsets: %v", err)
	}
	if err != nil {
		return nil
	}
	return offsetsOf(listed)
}

func offsetsOf(listed kadm.ListedOffsets) map[int32]int64 {
	all := make(map[int32]int64)
	listed.Each(func(o kadm.ListedOffset) { all[o.Partition] = o.Offset })
	return all
}

// awaitGroup waits until the group has consumed and committed all, and checks what it did.
func (w *world) awaitGroup(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	ends := w.ends(ctx, cl, keptTopic)
	var committed map[int32]int64
	late := overdue(ctx, 3*time.Minute, time.Second, func() bool {
		fetched, err := kadm.NewClient(cl.Client).FetchOffsets(ctx, group)
		if err = errors.Join(err, fetched.Error()); err != nil {
			return false // the coordinator moves
		}
		committed = make(map[int32]int64)
		fetched.Each(func(o kadm.OffsetResponse) { committed[o.Partition] = o.At })
		return equal(committed, ends)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.group.bad = w.group.check(w.read, committed)
	if late {
		w.group.report("group: committed %v, the log ends at %v", committed, ends)
	}
}

// equal tells whether what is in ends is what is committed; nothing is committed of an empty log.
func equal(committed, ends map[int32]int64) bool {
	for p, end := range ends {
		if committed[p] != end {
			return false
		}
	}
	return committed != nil
}
