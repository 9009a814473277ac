package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	nullMarker   string
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
	fs.StringVar(&f.nullMarker, "null-marker", "", "a key or value that is exactly this is null: a tombstone, of a compacted topic (none: no nulls)")
	fs.BoolVar(&f.whole, "whole-files", false, "each FILE is one record, keyed by its name")
	return cmd
}

func (f *produceFlags) options(topic string) ([]kgo.Opt, error) {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	codec, ok := codecs[f.compression]
	if !ok {
		return nil, fmt.Errorf("--compression %q: want none, gzip, snappy, lz4 or zstd", f.compression)
	}
	opts := []kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation()}
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
	headers, err := parseHeaders(f.headers)
	if err != nil {
		return fmt.Errorf("--header: %w", err)
	}
	opts = append(opts, kgo.RecordDeliveryTimeout(f.timeout))
	cl, err := newSending(cmd.Context(), topic, func(more ...kgo.Opt) (*kgo.Client, error) {
		return f.client(cmd.Context(), slices.Concat(opts, more)...)
	})
	if err != nil {
		return err
	}
	defer cl.Close()
	s := &sender{cl: cl, headers: headers, partition: max(f.partition, 0)}
	shown := cmd.ErrOrStderr()
	if len(files) == 0 && typed(cmd.InOrStdin()) {
		shown = io.Discard // a count would run over what is typed
	}
	progress := startProgress(shown, &s.acked)
	err = f.send(cmd, s, files)
	if flushErr := cl.Flush(context.WithoutCancel(cmd.Context())); err == nil { // bounded by the delivery timeout
		err = flushErr
	}
	progress.stop()
	if failed := s.failure(); failed != nil {
		err = failed
	}
	out := map[string]any{"topic": topic, "records": s.acked.Load()}
	return errors.Join(err, printerOf(cmd).value(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d records acknowledged\n", s.acked.Load())
	}))
}

// parseHeaders reads "key=value" pairs, in their order; a key may come again.
func parseHeaders(pairs []string) ([]kgo.RecordHeader, error) {
	var headers []kgo.RecordHeader
	for _, p := range pairs {
		k, v, err := keyValue(p)
		if err != nil {
			return nil, err
		}
		headers = append(headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	return headers, nil
}

// send sends all input. Ctrl-C ends what is typed at a terminal, as Ctrl-D does.
func (f *produceFlags) send(cmd *cobra.Command, s *sender, files []string) error {
	ctx := cmd.Context()
	if len(files) == 0 {
		in := cmd.InOrStdin()
		err := f.lines(s, newInterruptible(ctx, in))
		if typed(in) && errors.Is(err, errInterrupted) {
			return nil
		}
		return err
	}
	for _, name := range files {
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err := f.sendFile(ctx, s, name); err != nil {
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
		return s.one([]byte(name), value)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return f.lines(s, newInterruptible(ctx, file))
}

// lines sends a record a line.
func (f *produceFlags) lines(s *sender, r io.Reader) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	for in.Scan() {
		if in.Err() != nil { // the line may be cut off
			break
		}
		key, value, err := f.parse(in.Text())
		if err != nil {
			return err
		}
		if err := s.one(key, value); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read input: %w", err)
	}
	return nil
}

// parse returns the key and the value of a line.
func (f *produceFlags) parse(line string) (key, value []byte, err error) {
	if f.keySeparator != "" {
		k, v, ok := strings.Cut(line, f.keySeparator)
		if !ok {
			return nil, nil, fmt.Errorf("line %q has no key separator %q", shorten(line), f.keySeparator)
		}
		key, line = f.bytes(k), v
	}
	return key, f.bytes(line), nil
}

// bytes returns the bytes of a key or a value, nil for --null-marker.
func (f *produceFlags) bytes(s string) []byte {
	if f.nullMarker != "" && s == f.nullMarker {
		return nil
	}
	return []byte(s)
}

// sender produces records and remembers the first failure.
type sender struct {
	cl        *sending
	headers   []kgo.RecordHeader
	partition int32
	acked     atomic.Int64

	mu  sync.Mutex
	err error
}

// one sends a record; what has failed before ends it.
func (s *sender) one(key, value []byte) error {
	if err := s.failure(); err != nil {
		return err
	}
	s.cl.produce(context.Background(), &kgo.Record{Key: key, Value: value, Headers: s.headers, Partition: s.partition}, func(err error) {
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
	return nil
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
