// Puts measures plain parallel PUTs of objects of one size, without anything
// around them: what a log in the same bucket is held against.
//
//	go run ./bench/puts --bucket B [--bytes 4194304] [--parallel 12] [--rate 0] [--duration 10s]
//
// With a rate so many are sent each second, or fewer where parallel are under way.
// The store is found by the usual AWS environment. It prints a line of JSON.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/tiering/cloud"
	"github.com/varvelog/varve/tiering/objstore"
)

const putTimeout = 30 * time.Second

// load is what is to be put.
type load struct {
	size, parallel int
	rate           float64 // PUTs a second; 0: as fast as they go
	duration       time.Duration
}

func main() {
	var l load
	bucket := flag.String("bucket", "", "S3 bucket")
	flag.IntVar(&l.size, "bytes", 4<<20, "bytes of an object")
	flag.IntVar(&l.parallel, "parallel", 12, "PUTs at a time")
	flag.Float64Var(&l.rate, "rate", 0, "PUTs a second (0: as fast as they go)")
	flag.DurationVar(&l.duration, "duration", 10*time.Second, "how long to put")
	flag.Parse()
	if err := l.run(*bucket); err != nil {
		log.Fatal(err)
	}
}

func (l load) run(bucket string) error {
	prefix := "puts/" + rand.Text()
	_, store, err := cloud.Open(context.Background(), cloud.Place{Bucket: bucket, Prefix: prefix, Table: "none"}, nil)
	if err != nil {
		return err
	}
	body := make([]byte, l.size)
	if _, err := rand.Read(body); err != nil {
		return err
	}
	begin := time.Now()
	g, ctx := errgroup.WithContext(context.Background())
	took := make([][]time.Duration, l.parallel)
	for worker := range l.parallel {
		g.Go(func() (err error) {
			took[worker], err = l.work(ctx, store, worker, body)
			return err
		})
	}
	err = g.Wait()
	seconds, all := time.Since(begin).Seconds(), slices.Concat(took...)
	slices.Sort(all)
	ms := func(of float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(of*float64(len(all)-1))]) / float64(time.Millisecond)
	}
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(map[string]any{
		"puts": len(all), "seconds": seconds, "mb_s": float64(len(all)) * float64(l.size) / 1e6 / seconds, "p50_ms": ms(0.5), "p99_ms": ms(0.99),
	}))
}

// work is one of the workers: it sends every so many-th PUT, and returns how long each took.
func (l load) work(ctx context.Context, store objstore.Store, worker int, body []byte) (took []time.Duration, err error) {
	begin := time.Now()
	for n := worker; time.Since(begin) < l.duration; n += l.parallel {
		if l.rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))))
		}
		at := time.Now()
		if err := put(ctx, store, fmt.Sprint(n), body); err != nil {
			return took, err
		}
		took = append(took, time.Since(at))
	}
	return took, nil
}

func put(ctx context.Context, store objstore.Store, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return store.Put(ctx, key, objstore.Buffers{body})
}
