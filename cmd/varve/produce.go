package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

// maxLine bounds a line of input, and so a record's value.
const maxLine = 64 << 20

type produceFlags struct {
	clientFlags
	keySeparator string
	headers      []string
	compression  string
	acks         string
	partitioner  string
	partition    int32
	whole        bool
}

func newProduceCommand() *cobra.Command {
	f := new(produceFlags)
	cmd := &cobra.Command{
		Use:   "produce TOPIC [FILE …]",
		Short: "Write records, a line each, from standard input or files",
		Example: "  echo hello | varve produce greetings\n" +
			"  varve produce clicks --key-separator : --compression zstd clicks.txt",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], args[1:]) },
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.keySeparator, "key-separator", "", "what stands between key and value on a line (none: no keys)")
	fs.StringArrayVar(&f.headers, "header", nil, "header key=value of every record; may be repeated")
	fs.StringVar(&f.compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	fs.StringVar(&f.acks, "acks", "all", "0, 1 or all")
	fs.StringVar(&f.partitioner, "partitioner", "default", "default (hash of the key, else sticky), round-robin or manual")
	fs.Int32Var(&f.partition, "partition", -1, "write to this partition (the manual partitioner)")
	fs.BoolVar(&f.whole, "whole-files", false, "each FILE is one record, keyed by its name")
	return cmd
}

func (f *produceFlags) options(topic string) ([]kgo.Opt, error) {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	codec, ok := codecs[f.compression]
	if !ok {
		return nil, fmt.Errorf("--compression %q: want none, gzip, snappy, lz4 or zstd", f.compression)
	}
	opts := []kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.ProducerBatchMaxBytes(maxLine)}
	switch f.acks {
	case "all", "-1":
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, fmt.Errorf("--acks %q: want 0, 1 or all", f.acks)
	}
	switch {
	case f.partition >= 0 || f.partitioner == "manual":
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	case f.partitioner == "round-robin":
		opts = append(opts, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	case f.partitioner != "default":
		return nil, fmt.Errorf("--partitioner %q: want default, round-robin or manual", f.partitioner)
	}
	return opts, nil
}

func (f *produceFlags) run(cmd *cobra.Command, topic string, files []string) error {
	opts, err := f.options(topic)
	if err != nil {
		return err
	}
	kv, err := keyValues(f.headers)
	if err != nil {
		return fmt.Errorf("--header: %w", err)
	}
	var headers []kgo.RecordHeader
	for k, v := range kv {
		headers = append(headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	cl, err := f.client(cmd.Context(), opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	s := &sender{cl: cl, headers: headers, partition: max(f.partition, 0)}
	progress := startProgress(cmd.ErrOrStderr(), &s.acked)
	err = f.send(cmd, s, files)
	if flushErr := cl.Flush(cmd.Context()); err == nil {
		err = flushErr
	}
	progress.stop()
	err = errors.Join(err, s.failure())
	out := map[string]any{"topic": topic, "records": s.acked.Load()}
	return errors.Join(err, printerOf(cmd).value(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d records acknowledged\n", s.acked.Load())
	}))
}

func (f *produceFlags) send(cmd *cobra.Command, s *sender, files []string) error {
	if len(files) == 0 {
		return s.lines(cmd.Context(), cmd.InOrStdin(), f.keySeparator)
	}
	for _, name := range files {
		if err := f.sendFile(cmd.Context(), s, name); err != nil {
			return err
		}
	}
	return nil
}

func (f *produceFlags) sendFile(ctx context.Context, s *sender, name string) error {
	if f.whole {
		value, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return s.one(ctx, []byte(name), value)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return s.lines(ctx, file, f.keySeparator)
}

// sender produces records and remembers the first failure.
type sender struct {
	cl        *kgo.Client
	headers   []kgo.RecordHeader
	partition int32
	acked     atomic.Int64

	mu  sync.Mutex
	err error
}

func (s *sender) lines(ctx context.Context, r io.Reader, separator string) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	for in.Scan() {
		line := in.Text()
		var key []byte
		if separator != "" {
			k, v, ok := strings.Cut(line, separator)
			if !ok {
				return fmt.Errorf("line %q has no key separator %q", shorten(line), separator)
			}
			key, line = []byte(k), v
		}
		if err := s.one(ctx, key, []byte(line)); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read input: %w", err)
	}
	return nil
}

func (s *sender) one(ctx context.Context, key, value []byte) error {
	if s.failure() != nil {
		return nil //nolint:nilerr // told once, at the end
	}
	s.cl.Produce(ctx, &kgo.Record{Key: key, Value: value, Headers: s.headers, Partition: s.partition}, func(_ *kgo.Record, err error) {
		if err == nil {
			s.acked.Add(1)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.err = fmt.Errorf("produce: %w", err)
		}
	})
	return ctx.Err()
}

func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
