// Replay measures how fast clients/replay reads, against plain parallel ranged
// reads and zstd decoding of the same objects, in turns on the same files:
//
//	go run ./bench/replay [--mib 1536] [--partitions 4] [--record 1024] [--rounds 5] [--kafka HOST:PORT] [--bucket B --table T]
//
// With --kafka a franz-go consumer reads the same records from Apache Kafka in
// each round, hot. With --bucket and --table, which it makes, the log is in S3 and
// DynamoDB where the usual environment says; else in files. `make bench-replay` does all that. It writes a log of JSON-like records first: sealed segments, and a tail of
// checkpoint and WAL. Plain reads know where all lies, fetch it in pieces of the same
// size, decompress it and look at nothing. It prints MiB/s of uncompressed batches, CPU seconds for each GiB, and the ratio of
// the medians; --want makes a lower one an error. On a busy machine the one by CPU tells more.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/cloud"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
)

func main() {
	log.SetFlags(0)
	var w workload
	flag.IntVar(&w.mib, "mib", 1536, "MiB of records")
	flag.IntVar(&w.partitions, "partitions", 4, "partitions")
	flag.IntVar(&w.record, "record", 1024, "bytes of a record's value")
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "times that each is measured")
	flag.StringVar(&o.kafka, "kafka", "", "Apache Kafka to compare with")
	flag.StringVar(&o.place.Bucket, "bucket", "", "bucket to be made for the log")
	flag.StringVar(&o.place.Table, "table", "", "table to be made for it")
	flag.Float64Var(&o.want, "want", 0, "least ratio to plain reads")
	flag.Float64Var(&o.wantKafka, "want-kafka", 0, "least ratio to the consumer of Apache Kafka")
	profile := flag.String("profile", "", "file for a CPU profile")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	err := run(context.Background(), w, o)
	pprof.StopCPUProfile()
	if err != nil {
		log.Fatal(err)
	}
}

type options struct {
	rounds          int
	kafka           string
	place           cloud.Place
	want, wantKafka float64
}

func run(ctx context.Context, w workload, o options) (err error) {
	table, objects, end, err := open(ctx, o.place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	p := w.write(ctx, table, objects)
	src, err := replay.NewSource(table, objects)
	if err != nil {
		return err
	}
	fmt.Printf("%d MiB of batches in %d MiB of objects, %d partitions, %d records of %d bytes\n", p.raw>>20, p.stored>>20, w.partitions, w.records(), w.record)
	var firsts []time.Duration
	readers := []reader{
		{"plain", func() error { return p.read(ctx, objects) }},
		{"replay", func() error {
			first, err := w.replay(ctx, src)
			firsts = append(firsts, first)
			return err
		}},
	}
	if o.kafka != "" {
		k, err := newPeer(ctx, o.kafka, w)
		if err != nil {
			return err
		}
		readers = append(readers, reader{"kafka", func() error { return k.read(ctx) }})
	}
	m, err := compare(p.raw, readers, o.rounds)
	if err != nil {
		return err
	}
	ratio := m["replay"].rate / m["plain"].rate
	fmt.Printf("median: plain %v   replay %v   ratio %.2f, by CPU %.2f; its first record after %v\n", m["plain"], m["replay"], ratio, m["plain"].cpu/m["replay"].cpu, middle(firsts).Round(time.Millisecond))
	if ratio < o.want {
		err = fmt.Errorf("the ratio is %.2f, at least %.2f is wanted", ratio, o.want)
	}
	if o.kafka != "" {
		ratio := m["replay"].rate / m["kafka"].rate
		fmt.Printf("median: Apache Kafka, hot, read by franz-go %v   ratio of replay to it %.2f\n", m["kafka"], ratio)
		if ratio < o.wantKafka {
			err = errors.Join(err, fmt.Errorf("the ratio to Apache Kafka is %.2f, at least %.2f is wanted", ratio, o.wantKafka))
		}
	}
	return err
}

// open opens the stores, in AWS or in a folder that goes with the end.
func open(ctx context.Context, p cloud.Place) (table meta.Store, objects objstore.Store, end func() error, err error) {
	if p.Bucket != "" {
		table, objects, err := cloud.Open(ctx, p, nil)
		if err == nil {
			err = errors.Join(objects.Create(ctx), table.Create(ctx))
		}
		return table, objects, func() error { return nil }, err
	}
	dir, err := os.MkdirTemp("", "varve-bench-replay-")
	if err != nil {
		return nil, nil, nil, err
	}
	disk, err := vfs.Disk(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	db, err := sqlite.Open(ctx, filepath.Join(dir, "meta.db"))
	if err != nil {
		return nil, nil, nil, err
	}
	files, err := filestore.Open(disk, "objects")
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	return db, files, func() error { return errors.Join(files.Close(), db.Close(), os.RemoveAll(dir)) }, nil
}

// reader is a way to read all.
type reader struct {
	name string
	read func() error
}

// compare lets each read in turn, some rounds, and returns the medians.
func compare(bytes int64, readers []reader, rounds int) (map[string]figures, error) {
	all := make(map[string][]figures)
	for round := range rounds + 1 { // the first warms up
		for _, r := range readers {
			f, err := measure(bytes, r.read)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			if round > 0 {
				all[r.name] = append(all[r.name], f)
				fmt.Printf("%s %v   ", r.name, f)
			}
		}
		if round > 0 {
			fmt.Println()
		}
	}
	m := make(map[string]figures)
	for name, f := range all {
		m[name] = medians(f)
	}
	return m, nil
}

// figures are what one reading took.
type figures struct {
	rate float64 // MiB/s
	cpu  float64 // seconds of this process for each GiB
}

func (f figures) String() string { return fmt.Sprintf("%5.0f MiB/s, %.2f CPU-s/GiB", f.rate, f.cpu) }

func measure(bytes int64, fn func() error) (figures, error) {
	begin, used := time.Now(), cpu()
	err := fn()
	return figures{float64(bytes) / (1 << 20) / time.Since(begin).Seconds(), (cpu() - used).Seconds() / (float64(bytes) / (1 << 30))}, err
}

// cpu returns what this process has used.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func medians(all []figures) figures {
	of := func(get func(figures) float64) float64 {
		var v []float64
		for _, f := range all {
			v = append(v, get(f))
		}
		return middle(v)
	}
	return figures{of(func(f figures) float64 { return f.rate }), of(func(f figures) float64 { return f.cpu })}
}

func middle[T cmp.Ordered](all []T) T {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}
