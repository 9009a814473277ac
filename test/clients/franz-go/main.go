// Program franz-go drives github.com/twmb/franz-go.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/test/clients/driver"
)

func main() { driver.Main(func(b string) driver.Client { return client{b} }) }

type client struct{ bootstrap string }

func (client) Version() string { return driver.Module("github.com/twmb/franz-go") }

func (c client) with(use func(*kgo.Client) error, opts ...kgo.Opt) error {
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.bootstrap))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	return use(cl)
}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func (c client) Produce(ctx context.Context, topic, codec string, count int, idempotent bool) error {
	opts := []kgo.Opt{kgo.ProducerBatchCompression(codecs[codec]), kgo.RecordPartitioner(kgo.ManualPartitioner())}
	if !idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	return c.with(func(cl *kgo.Client) error {
		return cl.ProduceSync(ctx, made(topic, count)...).FirstErr()
	}, opts...)
}

func made(topic string, count int) []*kgo.Record {
	var all []*kgo.Record
	for i := range count {
		r := driver.Make(i)
		k := &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Name, Value: h.Value})
		}
		all = append(all, k)
	}
	return all
}

func (c client) Consume(ctx context.Context, topic string, count int) error {
	return c.consume(ctx, topic, count)
}

func (c client) consume(ctx context.Context, topic string, count int, opts ...kgo.Opt) error {
	from := map[int32]kgo.Offset{}
	for p := range int32(driver.Partitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	return c.with(func(cl *kgo.Client) error { return read(ctx, cl, count) },
		append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))...)
}

func read(ctx context.Context, cl *kgo.Client, count int) error {
	for count > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) { driver.Print(printable(r)); count-- })
	}
	return nil
}

func printable(r *kgo.Record) driver.Record {
	p := driver.Record{Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		p.Headers = append(p.Headers, driver.Header{Name: h.Key, Value: h.Value})
	}
	return p
}

func (c client) Seek(ctx context.Context, topic string, offsets []int64) error {
	return c.with(func(cl *kgo.Client) error {
		if err := cl.PollFetches(ctx).Err(); err != nil { // the partition is known from here on
			return err
		}
		for _, o := range offsets {
			cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {1: {Epoch: -1, Offset: o}}})
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return err
			}
			driver.Print(printable(fetches.Records()[0]))
		}
		return nil
	}, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {1: kgo.NewOffset().AtStart()}}))
}

func (c client) Group(ctx context.Context, topic, group string) error {
	return driver.Rebalance(ctx, func(ctx context.Context, name string, m *driver.Members) error {
		count := func(sign int) func(context.Context, *kgo.Client, map[string][]int32) {
			return func(_ context.Context, _ *kgo.Client, parts map[string][]int32) { m.Add(name, sign*len(parts[topic])) }
		}
		return c.with(func(cl *kgo.Client) error {
			for ctx.Err() == nil {
				cl.PollFetches(ctx)
			}
			return nil
		}, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.HeartbeatInterval(200*time.Millisecond),
			kgo.OnPartitionsAssigned(count(1)), kgo.OnPartitionsRevoked(count(-1)), kgo.OnPartitionsLost(count(-1)))
	})
}

func (c client) Commit(ctx context.Context, mode, topic, group string, count int) error {
	opts := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	if mode != "auto" {
		opts = append(opts, kgo.DisableAutoCommit())
	} else {
		opts = append(opts, kgo.AutoCommitInterval(100*time.Millisecond))
	}
	return c.with(func(cl *kgo.Client) error {
		if err := read(ctx, cl, count); err != nil {
			return err
		}
		switch mode {
		case "sync":
			return cl.CommitUncommittedOffsets(ctx)
		case "async":
			done := make(chan error, 1)
			cl.CommitOffsets(ctx, cl.UncommittedOffsets(), func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) { done <- err })
			return <-done
		}
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		cl.PollFetches(ctx) // what was polled before counts as done from here on
		return nil
	}, opts...)
}

func (c client) Large(ctx context.Context, topic string, size int) error {
	want := driver.Large(size)
	return c.with(func(cl *kgo.Client) error {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: 0, Value: want}).FirstErr(); err != nil {
			return err
		}
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		if got := fetches.Records()[0].Value; !bytes.Equal(got, want) {
			return fmt.Errorf("%d bytes written, %d others read", size, len(got))
		}
		return nil
	}, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(20<<20), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.BrokerMaxReadBytes(100<<20),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
}

func (c client) Admin(ctx context.Context, topic string) error {
	if err := c.with(func(cl *kgo.Client) error {
		_, err := kadm.NewClient(cl).CreateTopic(ctx, driver.Partitions, 1, nil, topic)
		return err
	}); err != nil {
		return err
	}
	if all, err := c.topics(ctx); err != nil || len(all[topic].Partitions) != driver.Partitions {
		return fmt.Errorf("list topics: %d partitions: %w", len(all[topic].Partitions), err)
	}
	if err := c.with(func(cl *kgo.Client) error {
		_, err := kadm.NewClient(cl).DeleteTopic(ctx, topic)
		return err
	}); err != nil {
		return err
	}
	all, err := c.topics(ctx)
	if err == nil && all.Has(topic) {
		err = errors.New("the deleted topic is still there")
	}
	return err
}

// topics lists the topics with a new client, since clients remember them for a while.
func (c client) topics(ctx context.Context) (all kadm.TopicDetails, err error) {
	err = c.with(func(cl *kgo.Client) error {
		all, err = kadm.NewClient(cl).ListTopics(ctx)
		return err
	})
	return all, err
}

func (c client) Transact(ctx context.Context, input, output, group string, count int) error {
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(c.bootstrap), kgo.TransactionalID(group), kgo.ConsumerGroup(group), kgo.ConsumeTopics(input),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer s.Close()
	no, again := make([]*kgo.Record, driver.Partitions), map[int32]kgo.EpochOffset{}
	for p := range int32(driver.Partitions) {
		no[p] = &kgo.Record{Topic: output, Partition: p, Value: []byte(driver.No)}
		again[p] = kgo.EpochOffset{Epoch: -1}
	}
	if err := transaction(ctx, s, 0, no, kgo.TryAbort); err != nil {
		return err
	}
	if err := transaction(ctx, s, count, made(output, count), kgo.TryCommit); err != nil {
		return err
	}
	s.Client().SetOffsets(map[string]map[int32]kgo.EpochOffset{input: again})
	if err := transaction(ctx, s, 1, no, kgo.TryAbort); err != nil {
		return err
	}
	return c.consume(ctx, output, count, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

// transaction reads records, whose offsets are committed with it, and writes
// others. The offsets of one that is aborted are not sent at all.
func transaction(ctx context.Context, s *kgo.GroupTransactSession, read int, write []*kgo.Record, end kgo.TransactionEndTry) error {
	if err := s.Begin(); err != nil {
		return err
	}
	for read > 0 {
		fetches := s.PollRecords(ctx, read)
		if err := fetches.Err(); err != nil {
			return err
		}
		read -= fetches.NumRecords()
	}
	if err := s.ProduceSync(ctx, write...).FirstErr(); err != nil {
		return err
	}
	committed, err := s.End(ctx, end)
	if err == nil && committed != bool(end) {
		err = errors.New("the transaction was not committed")
	}
	return err
}
