package varve

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Producer writes records: idempotent, acknowledged when they are durable in
// the object store (acks=all), zstd batches, which brokers store as they are. It is
// safe for concurrent use.
type Producer struct{ cl *kgo.Client }

// Bounds of a producer.
const (
	linger        = 5 * time.Millisecond
	bufferedBytes = 64 << 20
	delivery      = 2 * time.Minute // delivery.timeout.ms of Kafka's own producer
)

// NewProducer connects a producer.
func NewProducer(ctx context.Context, c Config) (*Producer, error) {
	cl, err := c.client(ctx,
		kgo.AllowAutoTopicCreation(), // where the brokers allow it, as from Kafka's own producer
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
		kgo.ProducerLinger(linger),
		kgo.MaxBufferedBytes(bufferedBytes),
		kgo.RecordDeliveryTimeout(delivery),
	)
	if err != nil {
		return nil, fmt.Errorf("open producer: %w", err)
	}
	return &Producer{cl}, nil
}

// Produce writes records and waits until all are durable; partition and offset
// are set in them then. It returns the first error; records that follow may have been
// written all the same.
func (p *Producer) Produce(ctx context.Context, records ...*Record) error {
	if err := p.cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	return nil
}

// Send writes a record and calls done, if not nil, when it is durable or has
// failed; in order of the records of a partition. It waits while 64 MiB are on their way.
func (p *Producer) Send(ctx context.Context, r *Record, done func(*Record, error)) {
	p.cl.Produce(ctx, r, done)
}

// Flush waits until all that was sent is durable or has failed.
func (p *Producer) Flush(ctx context.Context) error { return p.cl.Flush(ctx) }

// Close flushes and closes the producer. What was not durable before ctx ended
// fails.
func (p *Producer) Close(ctx context.Context) error {
	err := p.cl.Flush(ctx)
	p.cl.Close()
	return err
}
