package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type consumeFlags struct {
	clientFlags
	formatFlags
	from      string
	group     string
	count     int64
	exit      bool
	committed bool
	partition int32
}

func newConsumeCommand() *cobra.Command {
	f := new(consumeFlags)
	cmd := &cobra.Command{
		Use:   "consume TOPIC …",
		Short: "Read records",
		Example: "  varve consume clicks --exit\n" +
			"  varve consume clicks --from 2026-01-31T12:00:00Z --format '%t %p/%o %k=%v\\n'",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.from, "from", "beginning", placeUsage)
	fs.StringVar(&f.group, "group", "", "read as a member of this consumer group, from its committed offsets, and commit")
	f.formatFlags.register(fs)
	fs.Int64Var(&f.count, "count", 0, "stop after this many records (0: no limit)")
	fs.BoolVar(&f.exit, "exit", false, "stop at the end instead of following")
	fs.BoolVar(&f.committed, "read-committed", false, "leave out records of aborted and open transactions")
	fs.Int32Var(&f.partition, "partition", -1, "read this partition only")
	return cmd
}

// offset returns where to start.
func (f *consumeFlags) offset() (kgo.Offset, error) {
	at, err := parsePlace(f.from, time.Now())
	if err != nil {
		return kgo.Offset{}, fmt.Errorf("--from %w", err)
	}
	switch {
	case at.end:
		return kgo.NewOffset().AtEnd(), nil
	case at.offset >= 0:
		return kgo.NewOffset().At(at.offset), nil
	case !at.time.IsZero():
		return kgo.NewOffset().AfterMilli(at.time.UnixMilli()), nil
	}
	return kgo.NewOffset().AtStart(), nil
}

func (f *consumeFlags) run(cmd *cobra.Command, topics []string) error {
	opts, err := f.options(cmd.Context(), topics)
	if err != nil {
		return err
	}
	format, err := f.formatter(f.json)
	if err != nil {
		return err
	}
	cl, err := f.client(cmd.Context(), opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	r := &reader{cl: cl, left: f.count, format: format, out: bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)}
	if f.exit {
		if r.ends, err = endOffsets(cmd.Context(), cl, topics, f.partition); err != nil {
			return err
		}
	}
	if out, ok := cmd.OutOrStdout().(*os.File); ok && !isTerminal(out) {
		p := startProgress(cmd.ErrOrStderr(), &r.read)
		defer p.stop()
	}
	err = r.run(cmd.Context(), f.exit)
	if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		err = nil // Ctrl-C ends a follow
	}
	err = errors.Join(err, r.out.Flush())
	if f.group != "" && err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), f.timeout)
		defer cancel()
		err = cl.CommitMarkedOffsets(ctx)
	}
	return err
}

func (f *consumeFlags) options(_ context.Context, topics []string) ([]kgo.Opt, error) {
	at, err := f.offset()
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{kgo.ConsumeResetOffset(at), kgo.FetchMaxWait(500 * time.Millisecond)}
	if f.committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	switch {
	case f.partition >= 0 && f.group != "":
		return nil, errors.New("--partition and --group exclude each other")
	case f.partition >= 0:
		parts := make(map[string]map[int32]kgo.Offset, len(topics))
		for _, t := range topics {
			parts[t] = map[int32]kgo.Offset{f.partition: at}
		}
		opts = append(opts, kgo.ConsumePartitions(parts))
	case f.group != "":
		opts = append(opts, kgo.ConsumeTopics(topics...), kgo.ConsumerGroup(f.group), kgo.AutoCommitMarks())
	default:
		opts = append(opts, kgo.ConsumeTopics(topics...))
	}
	return opts, nil
}

// reader writes what it polls, until it reaches the ends or its count.
type reader struct {
	cl     *kgo.Client
	ends   map[string]map[int32]int64 // where to stop; emptied as partitions get there
	left   int64
	format recordWriter
	out    *bufio.Writer
	read   atomic.Int64
}

func (r *reader) run(ctx context.Context, exit bool) error {
	for !exit || len(r.ends) > 0 {
		fetches := r.cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		var errs []error
		fetches.EachError(func(t string, p int32, err error) {
			errs = append(errs, fmt.Errorf("fetch %s-%d: %w", t, p, err))
		})
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			rec := it.Next()
			if err := r.format(r.out, rec); err != nil {
				return err
			}
			r.cl.MarkCommitRecords(rec)
			if r.read.Add(1); r.left > 0 && r.read.Load() == r.left {
				return nil
			}
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if n := len(p.Records); n > 0 {
				r.reached(p.Topic, p.Partition, p.Records[n-1].Offset+1)
			}
		})
		if r.out.Buffered() > 0 {
			if err := r.out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) reached(topic string, partition int32, next int64) {
	if end, ok := r.ends[topic][partition]; ok && next >= end {
		delete(r.ends[topic], partition)
		if len(r.ends[topic]) == 0 {
			delete(r.ends, topic)
		}
	}
}

// endOffsets returns the ends of the partitions that have records.
func endOffsets(ctx context.Context, cl *kgo.Client, topics []string, only int32) (map[string]map[int32]int64, error) {
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	left := make(map[string]map[int32]int64)
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		if o.Offset <= start.Offset || only >= 0 && o.Partition != only {
			return
		}
		if left[o.Topic] == nil {
			left[o.Topic] = make(map[int32]int64)
		}
		left[o.Topic][o.Partition] = o.Offset
	})
	return left, nil
}
