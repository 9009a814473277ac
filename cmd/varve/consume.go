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

// kgo returns a place as the client takes it.
func (p place) kgo() kgo.Offset {
	switch {
	case p.end:
		return kgo.NewOffset().AtEnd()
	case p.offset >= 0:
		return kgo.NewOffset().At(p.offset)
	case !p.time.IsZero():
		return kgo.NewOffset().AfterMilli(p.time.UnixMilli())
	}
	return kgo.NewOffset().AtStart()
}

func (f *consumeFlags) run(cmd *cobra.Command, topics []string) error {
	from, err := parsePlace(f.from, time.Now())
	if err != nil {
		return fmt.Errorf("--from %w", err)
	}
	opts, err := f.options(topics, from.kgo())
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
		if r.goal, err = newGoal(cmd.Context(), cl, topics, from, f); err != nil {
			return err
		}
	}
	if out, ok := cmd.OutOrStdout().(*os.File); ok && !isTerminal(out) {
		p := startProgress(cmd.ErrOrStderr(), &r.read)
		defer p.stop()
	}
	err = r.run(cmd.Context())
	if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		if err = errInterrupted; !f.exit && f.count == 0 {
			err = nil // Ctrl-C ends a follow
		}
	}
	err = errors.Join(err, r.out.Flush())
	if f.group != "" && (err == nil || errors.Is(err, errInterrupted)) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), f.timeout)
		defer cancel()
		err = errors.Join(err, cl.CommitMarkedOffsets(ctx))
	}
	return err
}

func (f *consumeFlags) options(topics []string, at kgo.Offset) ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.ConsumeResetOffset(at), kgo.FetchMaxWait(500 * time.Millisecond), kgo.KeepControlRecords()}
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

// reader writes what it polls, until it reaches its goal or its count.
type reader struct {
	cl     *kgo.Client
	goal   *goal // nil: none
	left   int64
	format recordWriter
	out    *bufio.Writer
	read   atomic.Int64
}

func (r *reader) run(ctx context.Context) error {
	for r.goal == nil || len(r.goal.left) > 0 {
		fetches, err := r.poll(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		var errs []error
		fetches.EachError(func(t string, p int32, err error) {
			errs = append(errs, fmt.Errorf("fetch %s-%d: %w", t, p, err))
		})
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		if done, err := r.write(fetches); done || err != nil {
			return err
		}
		if r.out.Buffered() > 0 {
			if err := r.out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) poll(ctx context.Context) (kgo.Fetches, error) {
	if r.goal != nil {
		return r.goal.poll(ctx)
	}
	return r.cl.PollFetches(ctx), nil
}

// write writes records, and tells whether it has come to the count.
func (r *reader) write(fetches kgo.Fetches) (done bool, err error) {
	for it := fetches.RecordIter(); !it.Done(); {
		rec := it.Next()
		control := rec.Attrs.IsControl() // a transaction's end, which takes an offset
		if !control {
			if err := r.format(r.out, rec); err != nil {
				return false, err
			}
		}
		r.cl.MarkCommitRecords(rec)
		if r.goal != nil {
			r.goal.reached(rec.Topic, rec.Partition, rec.Offset+1)
		}
		if control {
			continue
		}
		if r.read.Add(1); r.left > 0 && r.read.Load() == r.left {
			return true, nil
		}
	}
	return false, nil
}
