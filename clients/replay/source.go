package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cloud"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
	"github.com/varvelog/varve/tiering/recovery"
)

// Source is a cluster's log as it lies in its stores. It is safe for
// concurrent use, by any number of replays.
type Source struct {
	store   objstore.Store
	cat     *catalog.Catalog
	cold    *cold.Reader
	dec     *bundle.FrameDecoder
	observe func(slots map[kafka.Slot]bool) looker
	close   func() error
}

// looker finds the tails of partitions; *recovery.Observer is one.
type looker interface {
	Look(ctx context.Context) (map[kafka.TopicPartition]recovery.Tail, error)
}

// framesRAM is what lookups by time keep of decompressed frames.
const framesRAM = 8 << 20

// NewSource returns the log in these stores. The caller closes them.
func NewSource(table meta.Store, objects objstore.Store) (*Source, error) {
	s := &Source{store: objects, cat: catalog.New(table), close: func() error { return nil }}
	s.observe = func(slots map[kafka.Slot]bool) looker {
		return recovery.NewObserver(s.store, s.cat, slices.Sorted(maps.Keys(slots)))
	}
	var err error
	if s.dec, err = bundle.NewFrameDecoder(); err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	cache, err := objcache.New(objcache.Options{Store: objects})
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	if s.cold, err = cold.New(cold.Options{Catalog: s.cat, Cache: cache, Store: objects, RAMBytes: framesRAM}); err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	return s, nil
}

// OpenDir returns the log in a data directory, beside running brokers or without any.
func OpenDir(ctx context.Context, dir string) (*Source, error) {
	db := filepath.Join(dir, "meta.db")
	if _, err := os.Stat(db); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	disk, err := vfs.Disk(dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	table, err := sqlite.Open(ctx, db)
	if err != nil {
		return nil, err
	}
	objects, err := filestore.Open(disk, "objects")
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	s, err := NewSource(table, objects)
	if err != nil {
		return nil, errors.Join(err, objects.Close(), table.Close())
	}
	s.close = func() error { return errors.Join(objects.Close(), table.Close()) }
	return s, nil
}

// Bucket is where a cluster on AWS is. Read-only access to both is enough.
type Bucket struct {
	Bucket string // S3 bucket of the objects
	Prefix string // of all keys in it; "": none
	Table  string // DynamoDB table of the metadata
}

// OpenBucket returns the log in a bucket and a table, with the credentials of
// the usual AWS environment (variables, profiles, roles; AWS_ENDPOINT_URL).
func OpenBucket(ctx context.Context, b Bucket) (*Source, error) {
	table, objects, err := cloud.Open(ctx, cloud.Place(b), nil)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	return NewSource(table, objects)
}

// Close closes what OpenDir opened.
func (s *Source) Close() error { return s.close() }

// Topics returns the names of the topics.
func (s *Source) Topics(ctx context.Context) ([]string, error) {
	if err := bounded(ctx, s.cat.Refresh); err != nil {
		return nil, err
	}
	var names []string
	for _, t := range s.cat.Topics().All() {
		names = append(names, t.Name)
	}
	return names, nil
}

// TopicByID returns the name of the topic with an id of 32 hexadecimal digits.
func (s *Source) TopicByID(id string) (name string, ok bool) {
	for _, t := range s.cat.Topics().All() {
		if t.ID.Hex() == id {
			return t.Name, true
		}
	}
	return "", false
}

func (s *Source) cluster(ctx context.Context) (c catalog.Cluster, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		c, err = s.cat.ReadCluster(ctx)
		return err
	})
	return c, err
}
