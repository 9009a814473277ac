package main

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// peer is Apache Kafka with the same records, and a consumer of them.
type peer struct {
	workload
	addr, topic string
}

// newPeer writes the records to a new topic, as the log has them: not compressed.
func newPeer(ctx context.Context, addr string, w workload) (*peer, error) {
	k := &peer{w, addr, "replay-" + rand.Text()}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(batchBytes+batchBytes/4))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, int32(w.partitions), 1, nil, k.topic); err != nil {
		return nil, fmt.Errorf("create topic at %s: %w", addr, err)
	}
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	for i := range w.records() {
		key, value := w.next(rng)
		partition := i / (flushBytes / w.record) % w.partitions
		cl.Produce(ctx, &kgo.Record{Topic: k.topic, Partition: int32(partition), Key: key, Value: value}, func(_ *kgo.Record, e error) {
			if e != nil && err == nil {
				err = e
			}
		})
	}
	if e := cl.Flush(ctx); e != nil {
		return nil, e
	}
	return k, err
}

// read reads all records and looks at each.
func (k *peer) read(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addr), kgo.ConsumeTopics(k.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	n, bytes := 0, 0
	for n < k.records() {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			bytes += len(r.Key) + len(r.Value)
		})
	}
	return nil
}
