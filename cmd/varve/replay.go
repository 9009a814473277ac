package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/internal/kafka"
)

type replayFlags struct {
	storeFlags
	formatFlags
	topic      string
	partitions []int32
	from, to   string
	committed  bool
	follow     bool
	count      int64
	json       bool
	position   string
	memoryMiB  int64
	output     string
	parquet    bool
	into       string
	intoTopic  string
	listing    bool
	slots      int
}

func newReplayCommand() *cobra.Command {
	f := new(replayFlags)
	cmd := &cobra.Command{
		Use:   "replay --topic TOPIC",
		Short: "Read a topic straight from the object store, with or without a running broker",
		Long: "Read a topic straight from the object store and the catalogue. No broker is asked, and nothing is written to the log's stores:\n" +
			"it works beside running brokers and without any. Records go to standard output, to files (--output), or into another cluster (--into).",
		Example: "  varve replay --topic clicks --json | jq .value\n" +
			"  varve replay --topic clicks --from 24h --output clicks/ --parquet\n" +
			"  varve replay --topic clicks --bucket my-log --table my-log --into other:9092",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.storeFlags.register(fs, "data directory")
	f.formatFlags.register(fs)
	fs.StringVar(&f.topic, "topic", "", "topic to read")
	fs.Int32SliceVar(&f.partitions, "partition", nil, "partitions to read (all)")
	fs.StringVar(&f.from, "from", "beginning", placeUsage)
	fs.StringVar(&f.to, "to", "end", "where to stop, before what is there: "+placeUsage)
	fs.BoolVar(&f.committed, "read-committed", false, "leave out records of aborted and open transactions")
	fs.BoolVar(&f.follow, "follow", false, "go on with what is appended")
	fs.Int64Var(&f.count, "count", 0, "stop after this many records (0: no limit)")
	fs.BoolVar(&f.json, "json", false, "a record a line, as JSON")
	fs.StringVar(&f.position, "position", "", "file that keeps the position: begin there if it exists, and write it in the end")
	fs.Int64Var(&f.memoryMiB, "memory", 256, "MiB of records held at a time")
	fs.StringVar(&f.output, "output", "", "write a file for each partition into this directory")
	fs.BoolVar(&f.parquet, "parquet", false, "with --output: Parquet files")
	fs.StringVar(&f.into, "into", "", "write into another cluster, found at host:port[,host:port …], partition by partition")
	fs.StringVar(&f.intoTopic, "into-topic", "", "with --into: the topic there (the same name); made where there is none")
	fs.BoolVar(&f.listing, "without-catalogue", false, "work out from the objects alone what the catalogue would say: it is lost (TOPIC may be an id of 32 digits)")
	fs.IntVar(&f.slots, "slots", 0, "with --without-catalogue, where there is no manifest: the cluster's number of slots (256)")
	cmd.MarkFlagsMutuallyExclusive("without-catalogue", "follow")
	_ = cmd.MarkFlagRequired("topic") // it exists
	cmd.MarkFlagsMutuallyExclusive("output", "into")
	cmd.MarkFlagsMutuallyExclusive("output", "count")
	cmd.MarkFlagsMutuallyExclusive("output", "follow")
	return cmd
}

func (f *replayFlags) run(cmd *cobra.Command) (err error) {
	if f.parquet && f.output == "" {
		return errors.New("--parquet wants --output")
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	src, closeAll, err := f.source(cmd, &opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	r, err := replay.Open(cmd.Context(), src, opts)
	if err != nil {
		return err
	}
	if out, ok := cmd.OutOrStdout().(*os.File); f.output != "" || f.into != "" || ok && !isTerminal(out) {
		p := startLine(cmd.ErrOrStderr(), func(since time.Duration) string {
			g := r.Progress()
			return fmt.Sprintf("%s  %d records, %.0f MiB/s", bar(g.Offsets, g.Total, since), g.Records, float64(g.Bytes)/(1<<20)/since.Seconds())
		})
		defer p.stop()
	}
	err = f.write(cmd, r)
	if f.follow && errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		err = nil // Ctrl-C ends a follow
	}
	if err == nil && f.position != "" {
		err = savePosition(f.position, r.Position())
	}
	return err
}

// options returns what to read.
func (f *replayFlags) options() (o replay.Options, err error) {
	o = replay.Options{Topic: f.topic, Committed: f.committed, Follow: f.follow, MemoryBytes: f.memoryMiB << 20, Partitions: f.partitions}
	now := time.Now()
	if o.From, err = bound(f.from, now); err != nil {
		return o, fmt.Errorf("--from %w", err)
	}
	if o.To, err = bound(f.to, now); err != nil {
		return o, fmt.Errorf("--to %w", err)
	}
	if f.to == "beginning" {
		return o, errors.New("--to beginning: nothing lies before it")
	}
	if f.position == "" {
		return o, nil
	}
	text, err := os.ReadFile(f.position)
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		o.Resume = new(replay.Position)
		err = json.Unmarshal(text, o.Resume)
	}
	if err != nil {
		return o, fmt.Errorf("--position: %w", err)
	}
	return o, nil
}

func bound(s string, now time.Time) (replay.Bound, error) {
	at, err := parsePlace(s, now)
	switch {
	case err != nil:
		return replay.Bound{}, err
	case at.end:
		return replay.End(), nil
	case at.offset >= 0:
		return replay.Offset(at.offset), nil
	case !at.time.IsZero():
		return replay.Time(at.time), nil
	}
	return replay.Bound{}, nil
}

// savePosition writes a position to a file, whole or not at all.
func savePosition(name string, pos replay.Position) error {
	text, err := json.MarshalIndent(pos, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// fromListing opens the log of a cluster whose catalogue is lost, and says
// what that has left open. A topic that is named by its id gets its name.
func (f *replayFlags) fromListing(cmd *cobra.Command, o *replay.Options) (*replay.Source, func() error, error) {
	s, err := f.openObjects(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	l := replay.Listing{Slots: f.slots, Names: map[string]string{}}
	if _, err := kafka.ParseTopicID(o.Topic); err == nil {
		l.Names[o.Topic] = ""
	}
	src, report, err := replay.NewSourceFromListing(cmd.Context(), s.objects, l)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	for _, finding := range report.Findings {
		fmt.Fprintln(cmd.ErrOrStderr(), finding)
	}
	if name, ok := src.TopicByID(o.Topic); ok {
		o.Topic = name
	}
	return src, func() error { return errors.Join(src.Close(), s.Close()) }, nil
}

// source opens the cluster's log.
func (f *replayFlags) source(cmd *cobra.Command, o *replay.Options) (*replay.Source, func() error, error) {
	if f.listing {
		return f.fromListing(cmd, o)
	}
	s, err := f.open(cmd.Context(), false, nil)
	if err != nil {
		return nil, nil, err
	}
	src, err := replay.NewSource(s.meta, s.objects)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return src, s.Close, nil
}

// write writes the records to where the flags say.
func (f *replayFlags) write(cmd *cobra.Command, r *replay.Replay) error {
	switch {
	case f.output != "":
		return f.toFiles(cmd, r)
	case f.into != "":
		return f.toCluster(cmd, r)
	}
	format, err := f.formatter(f.json)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	err = f.each(cmd.Context(), r, func(rec *kgo.Record) error {
		if err := format(out, rec); err != nil || !f.follow {
			return err
		}
		return out.Flush()
	})
	return errors.Join(err, out.Flush())
}

// each calls fn with all records, or --count of them.
func (f *replayFlags) each(ctx context.Context, r *replay.Replay, fn func(*kgo.Record) error) error {
	left := f.count
	for rec, err := range r.Records(ctx) {
		if err != nil {
			return err
		}
		if err := fn(rec); err != nil {
			return err
		}
		if left--; left == 0 {
			break
		}
	}
	return nil
}
