package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

type benchFlags struct {
	clientFlags
	topic       string
	size        int
	duration    time.Duration
	rate        int
	batch       int32
	compression string
}

func newBenchCommand() *cobra.Command {
	f := new(benchFlags)
	cmd := &cobra.Command{Use: "bench", Short: "Measure a broker: produce, consume, end-to-end latency"}
	f.add(cmd)
	fs := cmd.PersistentFlags()
	fs.StringVar(&f.topic, "topic", "varve-bench", "topic, created on demand")
	fs.IntVar(&f.size, "record-bytes", 1024, "bytes of a record's value, half of them compressible")
	fs.DurationVar(&f.duration, "duration", 10*time.Second, "how long to run")
	fs.Int32Var(&f.batch, "batch-bytes", 256<<10, "most bytes of a produced batch")
	fs.StringVar(&f.compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	e2e := &cobra.Command{Use: "e2e", Short: "Latency from produce to consume at a fixed rate", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return f.endToEnd(cmd) }}
	e2e.Flags().IntVar(&f.rate, "rate", 1000, "records per second")
	cmd.AddCommand(
		&cobra.Command{Use: "produce", Short: "Produce at full speed, acks=all", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return f.produce(cmd) }},
		&cobra.Command{Use: "consume", Short: "Consume what is there at full speed", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return f.consume(cmd) }},
		e2e,
	)
	return cmd
}

type benchResult struct {
	Records int64   `json:"records"`
	MiBps   float64 `json:"mib_per_second"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50_ms,omitempty"`
	P99     float64 `json:"p99_ms,omitempty"`
	Max     float64 `json:"max_ms,omitempty"`
}

func (f *benchFlags) report(cmd *cobra.Command, n int64, took time.Duration, latencies []time.Duration) error {
	r := benchResult{Records: n, Seconds: took.Seconds(), MiBps: float64(n) * float64(f.size) / (1 << 20) / took.Seconds()}
	if slices.Sort(latencies); len(latencies) > 0 {
		at := func(p float64) float64 {
			return float64(latencies[int(p*float64(len(latencies)-1))].Microseconds()) / 1000
		}
		r.P50, r.P99, r.Max = at(0.5), at(0.99), at(1)
	}
	return printerOf(cmd).value(r, func(w io.Writer) {
		fmt.Fprintf(w, "%d records in %.1f s: %.1f MiB/s\n", r.Records, r.Seconds, r.MiBps)
		if len(latencies) > 0 {
			fmt.Fprintf(w, "latency p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", r.P50, r.P99, r.Max)
		}
	})
}

// values returns payloads whose first half is random and second half constant.
func (f *benchFlags) values() [][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	all := make([][]byte, 64)
	for i := range all {
		all[i] = make([]byte, f.size)
		for j := range f.size / 2 {
			all[i][j] = byte(rng.Uint32())
		}
	}
	return all
}

func (f *benchFlags) producer(ctx context.Context, extra ...kgo.Opt) (*kgo.Client, error) {
	p := produceFlags{compression: f.compression, acks: "all", partitioner: "default", partition: -1}
	opts, err := p.options(f.topic)
	if err != nil {
		return nil, err
	}
	return f.client(ctx, slices.Concat(opts, []kgo.Opt{kgo.ProducerBatchMaxBytes(f.batch), kgo.MaxBufferedBytes(64 << 20)}, extra)...)
}

func (f *benchFlags) produce(cmd *cobra.Command) error {
	cl, err := f.producer(cmd.Context(), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), f.duration)
	defer cancel()
	var acked atomic.Int64
	var failed atomic.Pointer[error]
	var mu sync.Mutex
	var latencies []time.Duration
	values := f.values()
	progress := startProgress(cmd.ErrOrStderr(), &acked)
	begin := time.Now()
	for i := 0; ctx.Err() == nil && failed.Load() == nil; i++ {
		sent := time.Now()
		cl.Produce(cmd.Context(), &kgo.Record{Value: values[i%len(values)]}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
				return
			}
			if n := acked.Add(1); n%64 == 0 {
				mu.Lock()
				latencies = append(latencies, time.Since(sent))
				mu.Unlock()
			}
		})
	}
	err = cl.Flush(cmd.Context())
	took := time.Since(begin)
	progress.stop()
	if p := failed.Load(); p != nil {
		err = errors.Join(err, *p)
	}
	return errors.Join(err, f.report(cmd, acked.Load(), took, latencies))
}

func (f *benchFlags) consume(cmd *cobra.Command) error {
	cl, err := f.client(cmd.Context(), kgo.ConsumeTopics(f.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(500*time.Millisecond), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := newGoal(cmd.Context(), cl, []string{f.topic}, place{offset: -1}, &consumeFlags{partition: -1})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.duration)
	defer cancel()
	var read atomic.Int64
	progress := startProgress(cmd.ErrOrStderr(), &read)
	begin := time.Now()
	for len(all.left) > 0 && ctx.Err() == nil {
		fetches, err := all.poll(ctx)
		if err = errors.Join(err, fetches.Err0()); err != nil && ctx.Err() == nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				read.Add(1)
			}
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if n := len(p.Records); n > 0 {
				all.reached(p.Topic, p.Partition, p.Records[n-1].Offset+1)
			}
		})
	}
	took := time.Since(begin)
	progress.stop()
	return f.report(cmd, read.Load(), took, nil)
}

// endToEnd produces at a fixed rate, and measures until each record is consumed.
func (f *benchFlags) endToEnd(cmd *cobra.Command) error {
	if f.rate <= 0 {
		return errors.New("--rate: want a positive number")
	}
	cl, err := f.producer(cmd.Context(), kgo.ConsumeTopics(f.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.ProduceSync(cmd.Context(), kgo.StringRecord("begin")).FirstErr(); err != nil { // the topic is there now
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.duration)
	defer cancel()
	go f.pace(ctx, cl)
	var latencies []time.Duration
	begin := time.Now()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			if len(r.Headers) == 1 {
				var sent time.Time
				if sent.UnmarshalBinary(r.Headers[0].Value) == nil {
					latencies = append(latencies, now.Sub(sent))
				}
			}
		})
	}
	return f.report(cmd, int64(len(latencies)), time.Since(begin), latencies)
}

func (f *benchFlags) pace(ctx context.Context, cl *kgo.Client) {
	tick := time.NewTicker(time.Second / time.Duration(f.rate))
	defer tick.Stop()
	values := f.values()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			now, _ := time.Now().MarshalBinary() // never fails for a time of now
			cl.Produce(ctx, &kgo.Record{Value: values[i%len(values)], Headers: []kgo.RecordHeader{{Key: "sent", Value: now}}}, nil)
		case <-ctx.Done():
			return
		}
	}
}
