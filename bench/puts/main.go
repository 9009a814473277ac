// Puts measures plain parallel PUTs of objects of one size, without anything
// around them: what a log in the same bucket is held against.
//
//	go run ./bench/puts --bucket B [--bytes 4194304] [--parallel 12] [--duration 10s]
//
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
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/tiering/cloud"
	"github.com/varvelog/varve/tiering/objstore"
)

const putTimeout = 30 * time.Second

func main() {
	bucket := flag.String("bucket", "", "S3 bucket")
	size := flag.Int("bytes", 4<<20, "bytes of an object")
	parallel := flag.Int("parallel", 12, "PUTs at a time")
	duration := flag.Duration("duration", 10*time.Second, "how long to put")
	flag.Parse()
	if err := run(*bucket, *size, *parallel, *duration); err != nil {
		log.Fatal(err)
	}
}

func run(bucket string, size, parallel int, duration time.Duration) error {
	prefix := "puts/" + rand.Text()
	_, store, err := cloud.Open(context.Background(), cloud.Place{Bucket: bucket, Prefix: prefix, Table: "none"}, nil)
	if err != nil {
		return err
	}
	body := make([]byte, size)
	if _, err := rand.Read(body); err != nil {
		return err
	}
	var done atomic.Int64
	begin := time.Now()
	g, ctx := errgroup.WithContext(context.Background())
	for worker := range parallel {
		g.Go(func() error {
			for n := 0; time.Since(begin) < duration; n++ {
				if err := put(ctx, store, fmt.Sprintf("%d/%d", worker, n), body); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	took := time.Since(begin).Seconds()
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(map[string]any{
		"puts": done.Load(), "seconds": took, "mb_s": float64(done.Load()) * float64(size) / 1e6 / took,
	}))
}

func put(ctx context.Context, store objstore.Store, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return store.Put(ctx, key, objstore.Buffers{body})
}
