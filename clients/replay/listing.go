package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/cloud"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
	"github.com/varvelog/varve/tiering/rebuild"
)

// Listing says how a log is read whose catalogue is lost: what it said is
// worked out from a listing of the objects and their footers, as `varve catalog
// rebuild` does. The footers of all objects are read first.
type Listing struct {
	// Slots is the cluster's number of slots, where the objects have no
	// manifest; 0: 256, or 4,096 if it can't be that.
	Slots int
	// Names of topics that the manifest does not have, by id (32 hexadecimal
	// digits); "" lets one be made up.
	Names map[string]string
	// Scratch is the directory where an index of the segments is kept until the
	// source is closed; "": that for temporary files.
	Scratch string
}

// NewSourceFromListing returns the log in an object store, without a
// catalogue, and what was found on the way: what is missing or could not be decided. The
// caller closes the source, then the store.
func NewSourceFromListing(ctx context.Context, objects objstore.Store, l Listing) (*Source, *rebuild.Report, error) {
	names := make(map[kafka.TopicID]string, len(l.Names))
	for id, name := range l.Names {
		topic, err := kafka.ParseTopicID(id)
		if err != nil {
			return nil, nil, err
		}
		names[topic] = name
	}
	dir, err := os.MkdirTemp(l.Scratch, "varve-listing-")
	if err != nil {
		return nil, nil, fmt.Errorf("make scratch directory: %w", err)
	}
	scratch, err := sqlite.Open(ctx, filepath.Join(dir, "meta.db"))
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	remove := func() error { return errors.Join(scratch.Close(), os.RemoveAll(dir)) }
	built, err := rebuild.Build(ctx, rebuild.Options{Store: objects, Slots: l.Slots, Names: names}, scratch)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	s, err := NewSource(scratch, objects)
	if err == nil {
		err = bounded(ctx, s.cat.Refresh)
	}
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	s.close = remove
	return s, built.Report, nil
}

// OpenDirListing is OpenDir for a data directory whose meta.db is lost.
func OpenDirListing(ctx context.Context, dir string, l Listing) (*Source, *rebuild.Report, error) {
	if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
		return nil, nil, fmt.Errorf("open data directory: %w", err)
	}
	disk, err := vfs.Disk(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open data directory: %w", err)
	}
	objects, err := filestore.Open(disk, "objects")
	if err != nil {
		return nil, nil, err
	}
	s, report, err := NewSourceFromListing(ctx, objects, l)
	if err != nil {
		return nil, nil, errors.Join(err, objects.Close())
	}
	remove := s.close
	s.close = func() error { return errors.Join(remove(), objects.Close()) }
	return s, report, nil
}

// OpenBucketListing is OpenBucket without a table, which is not asked for
// anything.
func OpenBucketListing(ctx context.Context, b Bucket, l Listing) (*Source, *rebuild.Report, error) {
	objects, err := cloud.OpenObjects(ctx, cloud.Place(b), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open bucket: %w", err)
	}
	return NewSourceFromListing(ctx, objects, l)
}
