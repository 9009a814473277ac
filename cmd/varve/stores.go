package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/aws/smithy-go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/cloud"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
	"github.com/varvelog/varve/tiering/wal"
)

// storeFlags say where a cluster is: in a data directory, or in a bucket and a
// table.
type storeFlags struct {
	data                  string
	bucket, table, prefix string
	create                bool // bucket and table
}

func (f *storeFlags) register(fs *pflag.FlagSet, data string) {
	fs.StringVar(&f.data, "data", "./varve-data", data)
	fs.StringVar(&f.bucket, "bucket", "", "S3 bucket of the cluster's objects, with --table: AWS in place of the data directory")
	fs.StringVar(&f.table, "table", "", "DynamoDB table of the cluster's metadata")
	fs.StringVar(&f.prefix, "prefix", "", "prefix of the objects' keys in the bucket")
}

// cloud tells whether the cluster is on AWS.
func (f *storeFlags) cloud() bool { return f.bucket != "" || f.table != "" || f.prefix != "" }

// place names where the cluster is, for a person.
func (f *storeFlags) place() string {
	if !f.cloud() {
		return f.data
	}
	return fmt.Sprintf("s3://%s/%s and table %s", f.bucket, f.prefix, f.table)
}

// stores are a cluster's ports.
type stores struct {
	meta    meta.Store
	objects objstore.Store
	room    func() int64 // bytes that objects has room for; nil: no end of it
	closers []func() error
}

// Close closes them, the last one opened first.
func (s *stores) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

// open opens the stores. A broker's data directory is made where there is
// none, bucket and table if --create says so. reg may be nil.
func (f *storeFlags) open(ctx context.Context, forBroker bool, reg prometheus.Registerer) (*stores, error) {
	if f.cloud() {
		return f.openCloud(ctx, forBroker, reg)
	}
	db := filepath.Join(f.data, "meta.db")
	if _, err := os.Stat(db); err != nil && !forBroker {
		return nil, fmt.Errorf("no data directory (--data names another, --bucket and --table a cluster on AWS): %w", err)
	}
	disk, err := vfs.Disk(f.data)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	disk.Direct = true
	store, err := sqlite.Open(ctx, db)
	if err != nil {
		return nil, err
	}
	objects, err := filestore.Open(disk, "objects", wal.KeyPrefix) // packed, as far as anything is put
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open objects: %w", err), store.Close())
	}
	return &stores{meta: store, objects: objects, room: roomOn(disk, "objects"), closers: []func() error{store.Close, objects.Close}}, nil
}

// roomOn returns a function that returns the bytes that are free on the disk of
// a folder, at most a tenth of a second old. A disk that does not say it has no end.
func roomOn(disk *vfs.DiskFS, folder string) func() int64 {
	type seen struct {
		free int64
		at   time.Time
	}
	var last atomic.Pointer[seen]
	return func() int64 {
		now := time.Now()
		if s := last.Load(); s != nil && now.Sub(s.at) < time.Second/10 {
			return s.free
		}
		free, err := disk.Free(folder)
		if err != nil {
			free = math.MaxInt64
		}
		last.Store(&seen{free, now})
		return free
	}
}

// openObjects opens the objects alone: of a cluster whose catalogue is lost.
func (f *storeFlags) openObjects(ctx context.Context) (*stores, error) {
	if f.cloud() {
		objects, err := cloud.OpenObjects(ctx, cloud.Place{Bucket: f.bucket, Prefix: f.prefix}, nil)
		if err != nil {
			return nil, err
		}
		return &stores{objects: objects}, nil
	}
	if _, err := os.Stat(filepath.Join(f.data, "objects")); err != nil {
		return nil, fmt.Errorf("no objects (--data names another directory, --bucket a bucket): %w", err)
	}
	disk, err := vfs.Disk(f.data)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	objects, err := filestore.Open(disk, "objects", wal.KeyPrefix)
	if err != nil {
		return nil, fmt.Errorf("open objects: %w", err)
	}
	return &stores{objects: objects, closers: []func() error{objects.Close}}, nil
}

const probeTimeout = 30 * time.Second

// openCloud opens bucket and table. Who is patient takes them as they are,
// unless they are missing.
func (f *storeFlags) openCloud(ctx context.Context, patient bool, reg prometheus.Registerer) (*stores, error) {
	if f.bucket == "" || f.table == "" {
		return nil, errors.New("a cluster on AWS has both --bucket and --table")
	}
	table, objects, err := cloud.Open(ctx, cloud.Place{Bucket: f.bucket, Prefix: f.prefix, Table: f.table}, reg)
	if err != nil {
		return nil, err
	}
	if f.create {
		if err := errors.Join(objects.Create(ctx), table.Create(ctx)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if _, err := objects.List(ctx, "", "", 1); err != nil && (!patient || hint(err) != "") {
		return nil, fmt.Errorf("bucket %s%s: %w", f.bucket, hint(err), err)
	}
	if _, err := table.Get(ctx, meta.Key{PK: "cluster", SK: "info"}); err != nil && !errors.Is(err, meta.ErrNotFound) && (!patient || hint(err) != "") {
		return nil, fmt.Errorf("table %s%s: %w", f.table, hint(err), err)
	}
	return &stores{meta: table, objects: objects}, nil
}

// hint says what to do where a bucket or table is missing.
func hint(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) && (api.ErrorCode() == "NoSuchBucket" || api.ErrorCode() == "ResourceNotFoundException") {
		return " is not there (varve broker --create makes it)"
	}
	return ""
}

// cloudDefaults are the broker settings that differ on stores that bill by
// request and lie further away.
var cloudDefaults = map[string]string{
	"wal.interval.ms":            "100",
	"wal.hedge":                  "true",
	"metadata.hedge":             "true",
	"wal.checkpoint.objects":     "256",
	"offsets.commit.interval.ms": "20",
	"cache.disk.bytes":           "8589934592",
}

// withDefaults returns settings with those of the place added that are not in it.
func (f *storeFlags) withDefaults(settings map[string]string) map[string]string {
	if f.cloud() {
		for name, v := range cloudDefaults {
			if _, ok := settings[name]; !ok {
				settings[name] = v
			}
		}
	}
	return settings
}
