package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

func baseOpts(c config) []kgo.Opt {
	o := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(c.bootstrap, ",")...),
		kgo.ClientID("loadgen"),
		kgo.AllowAutoTopicCreation(),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.AlwaysRetryEOF(), // brokers are killed, as a connection begins too
	}
	if c.reqTimeout > 0 {
		overhead := c.overhead
		if overhead == 0 {
			overhead = c.reqTimeout / 2
		}
		o = append(o, kgo.ProduceRequestTimeout(c.reqTimeout), kgo.RequestTimeoutOverhead(overhead),
			kgo.RetryBackoffFn(func(int) time.Duration { return c.reqTimeout / 10 }))
	}
	if c.metaMaxAge > 0 {
		o = append(o, kgo.MetadataMaxAge(c.metaMaxAge))
	}
	if c.verbose {
		o = append(o, kgo.WithLogger(kgo.BasicLogger(os.Stderr, kgo.LogLevelDebug, func() string { return time.Now().Format("15:04:05.000 ") })))
	}
	if c.maxVersions != "" {
		v := kversion.FromString(c.maxVersions)
		o = append(o, kgo.MaxVersions(v))
	}
	return o
}

func hasInitProducerID(ctx context.Context, c config) bool {
	cl, err := kgo.NewClient(baseOpts(c)...)
	if err != nil {
		return false
	}
	defer cl.Close()
	cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(cctx, cl)
	if err != nil {
		return false
	}
	for _, k := range resp.ApiKeys {
		if k.ApiKey == 22 && k.MaxVersion >= 0 {
			return true
		}
	}
	return false
}

// ready makes the topic and returns a producer's options; what would have no end gets one.
func ready(ctx context.Context, c *config, out map[string]any) ([]kgo.Opt, error) {
	if c.count == 0 && c.seconds == 0 {
		c.seconds = 20
	}
	if err := ensureTopic(ctx, *c, out); err != nil {
		return nil, err
	}
	return producerOpts(ctx, *c, out)
}

func producerOpts(ctx context.Context, c config, out map[string]any) ([]kgo.Opt, error) {
	o := baseOpts(c)
	var codec kgo.CompressionCodec
	switch c.compression {
	case "none", "":
		codec = kgo.NoCompression()
	case "gzip":
		codec = kgo.GzipCompression()
	case "snappy":
		codec = kgo.SnappyCompression()
	case "lz4":
		codec = kgo.Lz4Compression()
	case "zstd":
		codec = kgo.ZstdCompression()
	default:
		return nil, fmt.Errorf("unknown compression %q", c.compression)
	}
	idem := c.idempotent == "on" || c.idempotent == "auto" && hasInitProducerID(ctx, c)
	switch c.acks {
	case "all", "-1":
		o = append(o, kgo.RequiredAcks(kgo.AllISRAcks()))
	case "1":
		o = append(o, kgo.RequiredAcks(kgo.LeaderAck()))
		idem = false
	case "0":
		o = append(o, kgo.RequiredAcks(kgo.NoAck()))
		idem = false
	}
	if !idem {
		o = append(o, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(c.inflight))
	}
	buffered := c.buffered
	if buffered == 0 {
		buffered = 64<<20/c.recordBytes + 1
	}
	o = append(o,
		kgo.DefaultProduceTopic(c.topic),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(int32(c.batch)),
		kgo.ProducerLinger(c.linger),
		kgo.MaxBufferedRecords(buffered),
		kgo.RecordDeliveryTimeout(c.recTimeout),
		kgo.UnknownTopicRetries(20),
	)
	out["idempotent"] = idem
	out["compression"] = c.compression
	out["acks"] = c.acks
	out["linger_ms"] = float64(c.linger) / 1e6
	out["batch"] = c.batch
	return o, nil
}

func ensureTopic(ctx context.Context, c config, out map[string]any) error {
	if !c.create {
		return nil
	}
	cl, err := kgo.NewClient(baseOpts(c)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	cctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if c.deleteFirst {
		_, _ = adm.DeleteTopics(cctx, c.topic)
		time.Sleep(500 * time.Millisecond)
	}
	var cfgs map[string]*string
	if c.topicCfg != "" {
		cfgs = map[string]*string{}
		for _, kv := range strings.Split(c.topicCfg, ",") {
			k, v, _ := strings.Cut(kv, "=")
			cfgs[k] = &v
		}
	}
	resp, err := adm.CreateTopics(cctx, int32(c.partitions), int16(c.replication), cfgs, c.topic)
	if err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	for _, r := range resp {
		if r.Err != nil && !errors.Is(r.Err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic: %w %s", r.Err, r.ErrMessage)
		}
	}
	// wait until every partition has a leader
	for i := 0; i < 100; i++ {
		m, err := adm.Metadata(cctx, c.topic)
		if err == nil {
			t := m.Topics[c.topic]
			ok := t.Err == nil && len(t.Partitions) > 0
			for _, p := range t.Partitions {
				if p.Leader < 0 || p.Err != nil {
					ok = false
				}
			}
			if ok {
				out["partitions"] = len(t.Partitions)
				return nil
			}
		}
		select {
		case <-cctx.Done():
			return cctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("topic has no leaders")
}

func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(1, 120_000_000, 3) } // microseconds

func hist(h *hdrhistogram.Histogram) map[string]any {
	ms := func(v int64) float64 { return round(float64(v)/1000, 3) }
	return map[string]any{"n": h.TotalCount(), "min_ms": ms(h.Min()), "mean_ms": round(h.Mean()/1000, 3), "p50_ms": ms(h.ValueAtQuantile(50)), "p90_ms": ms(h.ValueAtQuantile(90)),
		"p99_ms": ms(h.ValueAtQuantile(99)), "p999_ms": ms(h.ValueAtQuantile(99.9)), "max_ms": ms(h.Max())}
}

type errCount struct {
	mu sync.Mutex
	m  map[string]int64
	n  int64
}

func (e *errCount) add(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil {
		e.m = map[string]int64{}
	}
	s := err.Error()
	if len(s) > 160 {
		s = s[:160]
	}
	if len(e.m) < 20 || e.m[s] > 0 {
		e.m[s]++
	}
	e.n++
}

func (e *errCount) put(out map[string]any) {
	out["errors"] = e.n
	if e.n > 0 {
		out["error_kinds"] = e.m
	}
}

func key(c config, seq uint64) []byte {
	if c.keys <= 0 {
		return nil
	}
	b := make([]byte, 8)
	binary.BigEndian.PutUint64(b, seq%uint64(c.keys))
	return b
}
