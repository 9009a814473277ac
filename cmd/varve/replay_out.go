package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/clients/replay"
)

// writeFile writes a file under its name once it is whole and synced.
func writeFile(name string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.part")
	if err != nil {
		return err
	}
	err = write(tmp)
	if err == nil {
		err = errors.Join(tmp.Chmod(0o644), tmp.Sync())
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// toFiles writes a file for each partition, all at the same time.
func (f *replayFlags) toFiles(cmd *cobra.Command, r *replay.Replay) error {
	format, err := f.formatter(f.json)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.output, 0o755); err != nil {
		return err
	}
	suffix := ".txt"
	switch {
	case f.parquet:
		suffix = ".parquet"
	case f.json:
		suffix = ".jsonl"
	}
	var records atomic.Int64
	share := max(f.memoryMiB<<20/int64(len(r.Ranges())), 1<<20)
	err = r.Each(cmd.Context(), func(partition int32, all iter.Seq2[*kgo.Record, error]) error {
		name := filepath.Join(f.output, fmt.Sprintf("%s-%05d%s", f.topic, partition, suffix))
		return writeFile(name, func(w io.Writer) error {
			counted := count(all, &records)
			if f.parquet {
				return writeParquet(w, counted, share)
			}
			out := bufio.NewWriterSize(w, 256<<10)
			for rec, err := range counted {
				if err == nil {
					err = format(out, rec)
				}
				if err != nil {
					return err
				}
			}
			return out.Flush()
		})
	})
	if err != nil {
		return err
	}
	out := map[string]any{"records": records.Load(), "partitions": len(r.Ranges()), "output": f.output}
	return printerOf(cmd).value(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d records of %d partitions written to %s\n", records.Load(), len(r.Ranges()), f.output)
	})
}

func count(all iter.Seq2[*kgo.Record, error], n *atomic.Int64) iter.Seq2[*kgo.Record, error] {
	return func(yield func(*kgo.Record, error) bool) {
		for rec, err := range all {
			if err == nil {
				n.Add(1)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

// toCluster produces the records into another cluster: each into the partition
// that it comes from, with its time and headers.
func (f *replayFlags) toCluster(cmd *cobra.Command, r *replay.Replay) error {
	topic := f.intoTopic
	if topic == "" {
		topic = f.topic
	}
	cl, err := newSending(cmd.Context(), topic, func(more ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(append(more, kgo.SeedBrokers(strings.Split(f.into, ",")...), kgo.ClientID("varve"), kgo.DefaultProduceTopic(topic),
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedBytes(int(f.memoryMiB)<<20))...)
	})
	if err != nil {
		return fmt.Errorf("topic %q of %s: %w", topic, f.into, err)
	}
	defer cl.Close()
	if err := makeTopic(cmd.Context(), cl.Client, topic, r); err != nil {
		return fmt.Errorf("topic %q of %s: %w", topic, f.into, err)
	}
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	var mu sync.Mutex
	var failed error
	var acked atomic.Int64
	err = f.each(ctx, r, func(rec *kgo.Record) error {
		cl.produce(ctx, copyRecord(rec, topic), func(err error) {
			if err == nil {
				acked.Add(1)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if failed == nil {
				failed = fmt.Errorf("produce: %w", err)
				cancel(failed)
			}
		})
		return context.Cause(ctx)
	})
	if flushErr := cl.Flush(context.WithoutCancel(ctx)); err == nil {
		err = flushErr
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil {
		err = failed
	}
	out := map[string]any{"records": acked.Load(), "into": f.into, "topic": topic}
	return errors.Join(err, printerOf(cmd).value(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d records acknowledged by %s\n", acked.Load(), f.into)
	}))
}

// makeTopic makes sure that a topic has the partitions that are read.
func makeTopic(ctx context.Context, cl *kgo.Client, topic string, r *replay.Replay) error {
	need := int32(0)
	for _, g := range r.Ranges() {
		need = max(need, g.Partition+1)
	}
	adm := kadm.NewClient(cl)
	made, err := adm.CreateTopic(ctx, need, -1, nil, topic)
	if err == nil || !errors.Is(made.Err, kerr.TopicAlreadyExists) {
		return err
	}
	there, err := adm.ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	if has := int32(len(there[topic].Partitions)); has < need {
		return fmt.Errorf("it has %d partitions, %d are needed", has, need)
	}
	return nil
}

// copyRecord returns a record that can be kept.
func copyRecord(r *kgo.Record, topic string) *kgo.Record {
	c := &kgo.Record{Topic: topic, Partition: r.Partition, Timestamp: r.Timestamp, Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, kgo.RecordHeader{Key: h.Key, Value: slices.Clone(h.Value)})
	}
	return c
}
