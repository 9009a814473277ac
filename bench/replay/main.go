// Replay measures how fast clients/replay reads, against plain parallel ranged
// reads and zstd decoding of the same objects, in turns on the same files:
//
//	go run ./bench/replay [--mib 512] [--partitions 4] [--record 1024] [--rounds 5]
//
// It writes a log of JSON-like records first: sealed segments, and a tail of
// checkpoint and WAL. Plain reads know where all lies, fetch it in pieces of the same
// size, decompress it and look at nothing. It prints MiB/s of uncompressed batches, CPU seconds for each GiB, and the ratio of
// the medians; --want makes a lower one an error. On a busy machine the one by CPU tells more.
package main

import (
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
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore/filestore"
)

func main() {
	log.SetFlags(0)
	var w workload
	flag.IntVar(&w.mib, "mib", 512, "MiB of records")
	flag.IntVar(&w.partitions, "partitions", 4, "partitions")
	flag.IntVar(&w.record, "record", 1024, "bytes of a record's value")
	rounds := flag.Int("rounds", 5, "times that each is measured")
	profile := flag.String("profile", "", "file for a CPU profile")
	want := flag.Float64("want", 0, "least ratio")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			log.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	if err := run(context.Background(), w, *rounds, *want); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w workload, rounds int, want float64) (err error) {
	dir, err := os.MkdirTemp("", "varve-bench-replay-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	disk, err := vfs.Disk(dir)
	if err != nil {
		return err
	}
	table, err := sqlite.Open(ctx, filepath.Join(dir, "meta.db"))
	if err != nil {
		return err
	}
	objects, err := filestore.Open(disk, "objects")
	if err != nil {
		return errors.Join(err, table.Close())
	}
	defer func() { err = errors.Join(err, objects.Close(), table.Close()) }()
	p := w.write(ctx, table, objects)
	src, err := replay.NewSource(table, objects)
	if err != nil {
		return err
	}
	fmt.Printf("%d MiB of batches in %d MiB of objects, %d partitions, %d records of %d bytes\n", p.raw>>20, p.stored>>20, w.partitions, w.records(), w.record)
	var plain, replayed []figures
	for round := range rounds + 1 { // the first warms up
		a, err := measure(p.raw, func() error { return p.read(ctx, objects) })
		if err != nil {
			return err
		}
		b, err := measure(p.raw, func() error { return w.replay(ctx, src) })
		if err != nil {
			return err
		}
		if round > 0 {
			plain, replayed = append(plain, a), append(replayed, b)
			fmt.Printf("plain %v   replay %v   ratio %.2f, by CPU %.2f\n", a, b, b.rate/a.rate, a.cpu/b.cpu)
		}
	}
	a, b := medians(plain), medians(replayed)
	ratio := b.rate / a.rate
	fmt.Printf("median: plain %v   replay %v   ratio %.2f, by CPU %.2f\n", a, b, ratio, a.cpu/b.cpu)
	if ratio < want {
		return fmt.Errorf("the ratio is %.2f, at least %.2f is wanted", ratio, want)
	}
	return nil
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
		slices.Sort(v)
		return v[len(v)/2]
	}
	return figures{of(func(f figures) float64 { return f.rate }), of(func(f figures) float64 { return f.cpu })}
}
