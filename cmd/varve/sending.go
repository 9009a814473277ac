package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	plainLimit     = 1_000_012 // of a batch, where no setting can be read: what Kafka's oldest brokers take
	recordOverhead = 128       // at most, of a batch of one record, but for its key, value and headers
)

// sending produces to one topic in batches that it takes: the limit is on a batch
// as it is sent, and the client counts it as it is before compression. A record that alone
// is larger than that is sent alone, since it may fit compressed. It is used by one goroutine.
type sending struct {
	*kgo.Client
	connect func(...kgo.Opt) (*kgo.Client, error)
	limit   int32       // max.message.bytes
	alone   *kgo.Client // of what is sent alone; nil: nothing was
}

// newSending connects. What it opened Close closes.
func newSending(ctx context.Context, topic string, connect func(...kgo.Opt) (*kgo.Client, error)) (*sending, error) {
	s := &sending{connect: connect, limit: plainLimit}
	var err error
	// It is asked at a partition's first record, when the limit is known.
	if s.Client, err = connect(kgo.ProducerBatchMaxBytesFn(func(string) int32 { return s.limit })); err != nil {
		return nil, err
	}
	if limit, err := messageLimit(ctx, kadm.NewClient(s.Client), topic); err != nil {
		s.Close()
		return nil, fmt.Errorf("read max.message.bytes: %w", err)
	} else if limit > 0 {
		s.limit = max(min(limit, maxLine), 512) // the client takes no less
	}
	return s, nil
}

func (s *sending) Close() {
	s.Client.Close()
	if s.alone != nil {
		s.alone.Close()
	}
}

// produce produces a record, behind those before it.
func (s *sending) produce(ctx context.Context, r *kgo.Record, done func(error)) {
	size := recordOverhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += recordOverhead + len(h.Key) + len(h.Value)
	}
	told := func(_ *kgo.Record, err error) {
		if errors.Is(err, kerr.MessageTooLarge) && size > int(s.limit) {
			err = fmt.Errorf("a record of about %d bytes, and max.message.bytes is %d: %w", size-recordOverhead, s.limit, err)
		}
		done(err)
	}
	if size <= int(s.limit) {
		s.Client.Produce(ctx, r, told)
		return
	}
	err := s.Flush(ctx)
	if s.alone == nil && err == nil {
		s.alone, err = s.connect(kgo.ProducerBatchMaxBytes(maxLine + recordOverhead))
	}
	if err == nil {
		r, err = s.alone.ProduceSync(ctx, r).First()
	}
	told(r, err)
}

// messageLimit returns max.message.bytes of a topic, or message.max.bytes of the
// brokers where it is not there yet; 0 where a cluster does not tell.
func messageLimit(ctx context.Context, adm *kadm.Client, topic string) (int32, error) {
	configs, err := adm.DescribeTopicConfigs(ctx, topic)
	if limit, ok := limitOf(configs, "max.message.bytes"); ok || err != nil {
		return limit, err
	}
	brokers, err := adm.ListBrokers(ctx)
	if err != nil || len(brokers) == 0 {
		return 0, err
	}
	configs, err = adm.DescribeBrokerConfigs(ctx, brokers.NodeIDs()[0])
	limit, _ := limitOf(configs, "message.max.bytes")
	return limit, err
}

func limitOf(configs kadm.ResourceConfigs, name string) (int32, bool) {
	for _, r := range configs {
		for _, c := range r.Configs {
			if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); c.Key == name && err == nil {
				return int32(n), true
			}
		}
	}
	return 0, false
}
