package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// maxRecords is how many records a producer writes at most.
const maxRecords = 250

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
	insist(ctx, func() error { return createTopic(ctx, cl, keptTopic, partitions, nil) })
	insist(ctx, func() error {
		return createTopic(ctx, cl, trimmedTopic, 1, map[string]*string{"retention.ms": &short, "segment.ms": kadm.StringPtr("1000")})
	})
}

// createTopic makes sure that a topic is there.
func createTopic(ctx context.Context, cl *kgo.Client, name string, partitions int32, configs map[string]*string) error {
	r, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, configs, name)
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
func (w *world) producer(ctx context.Context, opts ...kgo.Opt) *kgo.Client {
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
	for n := 0; trouble.Err() == nil && n < maxRecords; n++ {
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
func (w *world) ends(ctx context.Context, cl *kgo.Client, topic string) map[int32]int64 {
	return w.list(ctx, func() (kadm.ListedOffsets, error) { return kadm.NewClient(cl).ListEndOffsets(ctx, topic) })
}

// list lists offsets, again while partitions move.
func (w *world) list(ctx context.Context, fn func() (kadm.ListedOffsets, error)) map[int32]int64 {
	limit := time.Now().Add(time.Minute)
	for {
		listed, err := fn()
		if err = errors.Join(err, listed.Error()); err == nil {
			return offsetsOf(listed)
		}
		if time.Now().After(limit) {
			w.report("list offsets: %v", err)
			return nil
		}
		wait(ctx, 100*time.Millisecond)
	}
}

func offsetsOf(listed kadm.ListedOffsets) map[int32]int64 {
	all := make(map[int32]int64)
	listed.Each(func(o kadm.ListedOffset) { all[o.Partition] = o.Offset })
	return all
}

// consume is a member's place in the group: one client after the other, each for
// some time, the last until ctx ends.
func (w *world) consume(ctx context.Context, id int) {
	stream := fmt.Sprintf("member %d", id)
	for ctx.Err() == nil {
		span := time.Second + w.dice.upTo(stream, 15*time.Second)
		if w.cluster.faults.isCalm() {
			span = time.Hour
		}
		life, cancel := context.WithTimeout(ctx, span)
		w.member(life)
		cancel()
	}
}

// member consumes and commits until ctx ends; then it leaves.
func (w *world) member(ctx context.Context) {
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.OffsetCommit), 9) // the last that names topics
	floors := make(map[int32]int64)                        // of the partitions from which nothing came since they were assigned
	to := make(map[int32]int64)                            // what is to be committed
	forget := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range lost[keptTopic] {
			delete(to, p)
			delete(floors, p)
		}
	}
	cl := w.client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(keptTopic), kgo.DisableAutoCommit(), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.SessionTimeout(6*time.Second), kgo.RebalanceTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(), kgo.MaxVersions(versions),
		kgo.OnPartitionsRevoked(forget), kgo.OnPartitionsLost(forget),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, p := range assigned[keptTopic] {
				floors[p] = w.group.acked[p]
			}
		}))
	defer cl.CloseAllowingRebalance()
	for ctx.Err() == nil {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(poll)
		cancel()
		if next := w.consumed(fetches, floors, to); len(next) > 0 && commit(ctx, cl, next) {
			w.mu.Lock()
			for p, off := range next {
				w.group.acked[p] = max(w.group.acked[p], off)
				if to[p] == off {
					delete(to, p)
				}
			}
			w.mu.Unlock()
		}
		cl.AllowRebalance()
	}
}

// consumed notes what a member got, and returns what it is to commit.
func (w *world) consumed(fetches kgo.Fetches, floors, to map[int32]int64) map[int32]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		if floor, ok := floors[r.Partition]; ok {
			w.group.resumed(r.Partition, r.Offset, floor)
			delete(floors, r.Partition)
		}
		w.group.consumed[place{r.Partition, r.Offset}] = string(r.Value)
		to[r.Partition] = r.Offset + 1
	})
	for p, off := range to {
		w.group.asked[p] = max(w.group.asked[p], off)
	}
	return maps.Clone(to)
}

// commit commits offsets, all or not. It makes the request itself: the client's
// own function waits for a mutex that is held while it joins, which stops the bubble's time.
func commit(ctx context.Context, cl *kgo.Client, to map[int32]int64) bool {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = group
	req.MemberID, req.Generation = cl.GroupMetadata()
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = keptTopic
	for p, off := range to {
		at := kmsg.NewOffsetCommitRequestTopicPartition()
		at.Partition, at.Offset = p, off
		topic.Partitions = append(topic.Partitions, at)
	}
	req.Topics = append(req.Topics, topic)
	r, err := req.RequestWith(ctx, cl)
	if err != nil {
		return false
	}
	for _, p := range r.Topics[0].Partitions {
		if p.ErrorCode != 0 {
			return false
		}
	}
	return true
}

// awaitGroup waits until the group has consumed and committed all, and checks what it did.
func (w *world) awaitGroup(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	ends := w.ends(ctx, cl, keptTopic)
	var committed map[int32]int64
	for limit := time.Now().Add(3 * time.Minute); time.Now().Before(limit) && !equal(committed, ends); wait(ctx, time.Second) {
		fetched, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
		if err != nil {
			continue // the coordinator moves
		}
		committed = make(map[int32]int64)
		fetched.Each(func(o kadm.OffsetResponse) { committed[o.Partition] = o.At })
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.group.bad = w.group.check(w.read, committed)
	if !equal(committed, ends) {
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
