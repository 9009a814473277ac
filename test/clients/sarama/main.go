// Program sarama drives github.com/IBM/sarama.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/varvelog/varve/test/clients/driver"
)

func main() {
	sarama.MaxResponseSize = 100 << 20
	driver.Main(func(b string) driver.Client { return client{[]string{b}} })
}

type client struct{ bootstrap []string }

func (client) Version() string { return driver.Module("github.com/IBM/sarama") }

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
	"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Producer.MaxMessageBytes = 20 << 20
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	return c
}

func (c client) Produce(_ context.Context, topic, codec string, count int, idempotent bool) error {
	cfg := config()
	cfg.Producer.Compression = codecs[codec]
	if idempotent {
		cfg.Producer.Idempotent, cfg.Net.MaxOpenRequests = true, 1
	}
	p, err := sarama.NewSyncProducer(c.bootstrap, cfg)
	if err != nil {
		return err
	}
	return errors.Join(p.SendMessages(made(topic, count)), p.Close())
}

func made(topic string, count int) []*sarama.ProducerMessage {
	var all []*sarama.ProducerMessage
	for i := range count {
		r := driver.Make(i)
		m := &sarama.ProducerMessage{Topic: topic, Partition: r.Partition, Timestamp: time.UnixMilli(r.Timestamp)}
		if r.Key != nil {
			m.Key = sarama.ByteEncoder(r.Key)
		}
		if r.Value != nil {
			m.Value = sarama.ByteEncoder(r.Value)
		}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Name), Value: h.Value})
		}
		all = append(all, m)
	}
	return all
}

// partition reads count records of a partition, or until the context ends.
func (c client) partition(ctx context.Context, consumer sarama.Consumer, topic string, at int32, offset int64, each func(*sarama.ConsumerMessage) error) error {
	p, err := consumer.ConsumePartition(topic, at, offset)
	if err != nil {
		return err
	}
	defer p.Close()
	for {
		select {
		case m := <-p.Messages():
			if err := each(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errEnough = errors.New("enough")

func (c client) Consume(ctx context.Context, topic string, count int) error {
	return c.consume(ctx, config(), topic, count)
}

func (c client) consume(ctx context.Context, cfg *sarama.Config, topic string, count int) error {
	consumer, err := sarama.NewConsumer(c.bootstrap, cfg)
	if err != nil {
		return err
	}
	defer consumer.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for at := range int32(driver.Partitions) {
		wg.Go(func() {
			cancel(c.partition(ctx, consumer, topic, at, sarama.OffsetOldest, func(m *sarama.ConsumerMessage) error {
				mu.Lock()
				defer mu.Unlock()
				driver.Print(printable(m))
				if count--; count == 0 {
					return errEnough
				}
				return nil
			}))
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

func printable(m *sarama.ConsumerMessage) driver.Record {
	r := driver.Record{Partition: m.Partition, Offset: m.Offset, Timestamp: m.Timestamp.UnixMilli(), Key: m.Key, Value: m.Value}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, driver.Header{Name: string(h.Key), Value: h.Value})
	}
	return r
}

func (c client) Seek(ctx context.Context, topic string, offsets []int64) error {
	consumer, err := sarama.NewConsumer(c.bootstrap, config())
	if err != nil {
		return err
	}
	defer consumer.Close()
	for _, o := range offsets {
		if err := c.partition(ctx, consumer, topic, 1, o, func(m *sarama.ConsumerMessage) error {
			driver.Print(printable(m))
			return errEnough
		}); !errors.Is(err, errEnough) {
			return err
		}
	}
	return nil
}

// handler is a member of a group.
type handler struct {
	claims func(int)
	each   func(sarama.ConsumerGroupSession, *sarama.ConsumerMessage)
}

func (h handler) Setup(s sarama.ConsumerGroupSession) error {
	n := 0
	for _, parts := range s.Claims() {
		n += len(parts)
	}
	h.claims(n)
	return nil
}

func (h handler) Cleanup(sarama.ConsumerGroupSession) error {
	h.claims(0)
	return nil
}

func (h handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		h.each(s, m)
	}
	return nil
}

func (c client) join(ctx context.Context, cfg *sarama.Config, topic, group string, h handler) error {
	g, err := sarama.NewConsumerGroup(c.bootstrap, group, cfg)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := g.Consume(ctx, []string{topic}, h); err != nil {
			return errors.Join(err, g.Close())
		}
	}
	return g.Close()
}

func (c client) Group(ctx context.Context, topic, group string) error {
	return driver.Rebalance(ctx, func(ctx context.Context, name string, m *driver.Members) error {
		cfg := config()
		cfg.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
		return c.join(ctx, cfg, topic, group, handler{
			claims: func(n int) { m.Set(name, n) },
			each:   func(sarama.ConsumerGroupSession, *sarama.ConsumerMessage) {},
		})
	})
}

func (c client) Commit(ctx context.Context, mode, topic, group string, count int) error {
	if mode == "async" {
		return errors.ErrUnsupported
	}
	cfg := config()
	cfg.Consumer.Offsets.AutoCommit.Enable = mode == "auto"
	cfg.Consumer.Offsets.AutoCommit.Interval = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	return c.join(ctx, cfg, topic, group, handler{
		claims: func(int) {},
		each: func(s sarama.ConsumerGroupSession, m *sarama.ConsumerMessage) {
			mu.Lock()
			defer mu.Unlock()
			driver.Print(printable(m))
			s.MarkMessage(m, "")
			if count--; count == 0 {
				if mode == "sync" {
					s.Commit()
				}
				cancel()
			}
		},
	})
}

func (c client) Large(ctx context.Context, topic string, size int) error {
	want := driver.Large(size)
	p, err := sarama.NewSyncProducer(c.bootstrap, config())
	if err != nil {
		return err
	}
	if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(want)}); err != nil {
		return errors.Join(err, p.Close())
	}
	cfg := config()
	cfg.Consumer.Fetch.Max = math.MaxInt32
	consumer, err := sarama.NewConsumer(c.bootstrap, cfg)
	if err != nil {
		return err
	}
	defer consumer.Close()
	if err := c.partition(ctx, consumer, topic, 0, 0, func(m *sarama.ConsumerMessage) error {
		if !bytes.Equal(m.Value, want) {
			return fmt.Errorf("%d bytes written, %d others read", size, len(m.Value))
		}
		return errEnough
	}); !errors.Is(err, errEnough) {
		return err
	}
	return p.Close()
}

func (c client) Admin(_ context.Context, topic string) error {
	adm, err := sarama.NewClusterAdmin(c.bootstrap, config())
	if err != nil {
		return err
	}
	defer adm.Close()
	if err := adm.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: driver.Partitions, ReplicationFactor: 1}, false); err != nil {
		return err
	}
	all, err := adm.ListTopics()
	if err != nil {
		return err
	}
	if n := all[topic].NumPartitions; n != driver.Partitions {
		return fmt.Errorf("list topics: %d partitions", n)
	}
	if err := adm.DeleteTopic(topic); err != nil {
		return err
	}
	if all, err = adm.ListTopics(); err != nil {
		return err
	}
	if _, there := all[topic]; there {
		return errors.New("the deleted topic is still there")
	}
	return nil
}

func (c client) Transact(ctx context.Context, input, output, group string, count int) error {
	cfg := config()
	cfg.Producer.Idempotent, cfg.Net.MaxOpenRequests = true, 1
	cfg.Producer.Transaction.ID = group
	p, err := sarama.NewSyncProducer(c.bootstrap, cfg)
	if err != nil {
		return err
	}
	if err := errors.Join(transactions(p, input, output, group, count), p.Close()); err != nil {
		return err
	}
	cfg = config()
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	return c.consume(ctx, cfg, output, count)
}

func transactions(p sarama.SyncProducer, input, output, group string, count int) error {
	for _, txn := range []struct {
		write  []*sarama.ProducerMessage
		offset int64 // committed with it, if any
		end    func() error
	}{
		{no(output), 0, p.AbortTxn},
		{made(output, count), int64(count / driver.Partitions), p.CommitTxn},
		{no(output), 1, p.AbortTxn},
	} {
		if err := p.BeginTxn(); err != nil {
			return err
		}
		if err := p.SendMessages(txn.write); err != nil {
			return err
		}
		if txn.offset > 0 {
			var offsets []*sarama.PartitionOffsetMetadata
			for at := range int32(driver.Partitions) {
				offsets = append(offsets, &sarama.PartitionOffsetMetadata{Partition: at, Offset: txn.offset})
			}
			if err := p.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{input: offsets}, group); err != nil {
				return err
			}
		}
		if err := txn.end(); err != nil {
			return err
		}
	}
	return nil
}

func no(topic string) []*sarama.ProducerMessage {
	var all []*sarama.ProducerMessage
	for at := range int32(driver.Partitions) {
		all = append(all, &sarama.ProducerMessage{Topic: topic, Partition: at, Value: sarama.StringEncoder(driver.No)})
	}
	return all
}
