// Program kafka-go drives github.com/segmentio/kafka-go.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/varvelog/varve/test/clients/driver"
)

func main() {
	driver.Main(func(b string) driver.Client {
		return client{b, &kafka.Client{Addr: kafka.TCP(b), Timeout: 30 * time.Second}}
	})
}

type client struct {
	bootstrap string
	api       *kafka.Client
}

func (client) Version() string { return driver.Module("github.com/segmentio/kafka-go") }

var codecs = map[string]kafka.Compression{
	"none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

func (c client) writer(topic, codec string) *kafka.Writer {
	return &kafka.Writer{
		Addr: kafka.TCP(c.bootstrap), Topic: topic, Compression: codecs[codec], RequiredAcks: kafka.RequireAll,
		BatchBytes: 20 << 20, BatchTimeout: 10 * time.Millisecond, BatchSize: 1000,
		Balancer: kafka.BalancerFunc(func(m kafka.Message, _ ...int) int { // the record's number is in its first header
			if len(m.Headers) == 0 {
				return 0
			}
			n, err := strconv.Atoi(string(m.Headers[0].Value))
			if err != nil {
				return 0
			}
			return n % driver.Partitions
		}),
	}
}

func (c client) Produce(ctx context.Context, topic, codec string, count int, idempotent bool) error {
	if idempotent {
		return errors.ErrUnsupported
	}
	var all []kafka.Message
	for i := range count {
		r := driver.Make(i)
		m := kafka.Message{Key: r.Key, Value: r.Value, Time: time.UnixMilli(r.Timestamp)}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, kafka.Header{Key: h.Name, Value: h.Value})
		}
		all = append(all, m)
	}
	w := c.writer(topic, codec)
	return errors.Join(w.WriteMessages(ctx, all...), w.Close())
}

func (c client) reader(topic string, partition int) *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{Brokers: []string{c.bootstrap}, Topic: topic, Partition: partition, MaxBytes: 20 << 20, MaxWait: 100 * time.Millisecond})
}

func (c client) Consume(ctx context.Context, topic string, count int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	left, errs := count, make([]error, driver.Partitions)
	for at := range driver.Partitions {
		wg.Go(func() {
			r := c.reader(topic, at)
			defer r.Close()
			for {
				m, err := r.ReadMessage(ctx)
				mu.Lock()
				if err != nil {
					errs[at] = err
					mu.Unlock()
					return
				}
				driver.Print(printable(m))
				if left--; left == 0 {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if left > 0 {
		return errors.Join(errs...)
	}
	return nil
}

func printable(m kafka.Message) driver.Record {
	r := driver.Record{Partition: int32(m.Partition), Offset: m.Offset, Timestamp: m.Time.UnixMilli(), Key: m.Key, Value: m.Value}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, driver.Header{Name: h.Key, Value: h.Value})
	}
	return r
}

func (c client) Seek(ctx context.Context, topic string, offsets []int64) error {
	r := c.reader(topic, 1)
	defer r.Close()
	for _, o := range offsets {
		if err := r.SetOffset(o); err != nil {
			return err
		}
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return err
		}
		driver.Print(printable(m))
	}
	return nil
}

func (c client) Group(ctx context.Context, topic, group string) error {
	return driver.Rebalance(ctx, func(ctx context.Context, name string, m *driver.Members) error {
		g, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
			ID: group, Brokers: []string{c.bootstrap}, Topics: []string{topic}, HeartbeatInterval: 200 * time.Millisecond,
		})
		if err != nil {
			return err
		}
		for ctx.Err() == nil {
			gen, err := g.Next(ctx)
			if err != nil {
				return errors.Join(err, g.Close())
			}
			m.Set(name, len(gen.Assignments[topic]))
		}
		return g.Close()
	})
}

func (c client) Commit(ctx context.Context, mode, topic, group string, count int) error {
	if mode == "async" {
		return errors.ErrUnsupported
	}
	cfg := kafka.ReaderConfig{
		Brokers: []string{c.bootstrap}, GroupID: group, GroupTopics: []string{topic}, StartOffset: kafka.FirstOffset,
		MaxBytes: 20 << 20, MaxWait: 100 * time.Millisecond,
	}
	if mode == "auto" {
		cfg.CommitInterval = 100 * time.Millisecond
	}
	r := kafka.NewReader(cfg)
	var all []kafka.Message
	for range count {
		read := r.FetchMessage
		if mode == "auto" {
			read = r.ReadMessage // which commits, at the interval and on Close
		}
		m, err := read(ctx)
		if err != nil {
			return errors.Join(err, r.Close())
		}
		driver.Print(printable(m))
		all = append(all, m)
	}
	if mode == "sync" {
		if err := r.CommitMessages(ctx, all...); err != nil {
			return errors.Join(err, r.Close())
		}
	}
	return r.Close()
}

func (c client) Large(ctx context.Context, topic string, size int) error {
	want := driver.Large(size)
	w := c.writer(topic, "none")
	if err := errors.Join(w.WriteMessages(ctx, kafka.Message{Value: want}), w.Close()); err != nil {
		return err
	}
	r := c.reader(topic, 0)
	defer r.Close()
	m, err := r.ReadMessage(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(m.Value, want) {
		return fmt.Errorf("%d bytes written, %d others read", size, len(m.Value))
	}
	return nil
}

func (c client) Admin(ctx context.Context, topic string) error {
	created, err := c.api.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: driver.Partitions, ReplicationFactor: 1}},
	})
	if err := errors.Join(err, topicError(created, topic)); err != nil {
		return err
	}
	if n, err := c.partitions(ctx, topic); err != nil || n != driver.Partitions {
		return fmt.Errorf("list topics: %d partitions: %w", n, err)
	}
	deleted, err := c.api.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return err
	}
	if err := deleted.Errors[topic]; err != nil {
		return err
	}
	if n, err := c.partitions(ctx, topic); err != nil || n != 0 {
		return fmt.Errorf("list topics after the deletion: %d partitions: %w", n, err)
	}
	return nil
}

// Transact has no producer to write with: the requests that begin and end a
// transaction are there, but batches go out without a producer id.
func (client) Transact(context.Context, string, string, string, int) error {
	return errors.ErrUnsupported
}

func topicError(r *kafka.CreateTopicsResponse, topic string) error {
	if r == nil {
		return nil
	}
	return r.Errors[topic]
}

// partitions counts a topic's partitions over a new connection, since they are remembered for a while.
func (c client) partitions(ctx context.Context, topic string) (int, error) {
	var fresh kafka.Transport
	defer fresh.CloseIdleConnections()
	all, err := (&kafka.Client{Addr: c.api.Addr, Transport: &fresh}).Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return 0, err
	}
	for _, t := range all.Topics {
		if t.Name == topic {
			return len(t.Partitions), nil
		}
	}
	return 0, nil
}
