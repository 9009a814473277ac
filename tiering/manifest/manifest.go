// Package manifest keeps in the object store what a lost catalogue is rebuilt
// from besides the log itself: what the footers of the objects do not say. That is
// the names and settings of topics, how many slots there are, log starts, and
// which epochs and producer ids were given out.
//
// A manifest is a small JSON document of all of it, written anew soon after each
// control-plane change, by one broker; the last few are kept. It is a copy: nothing
// reads it while there is a catalogue. docs/format/manifest.md describes it.
package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore"
)

// KeyPrefix is what the keys of manifests begin with.
const KeyPrefix = "manifest/"

const (
	format      = 1
	maxBytes    = 256 << 20 // of a manifest that is read
	callTimeout = 30 * time.Second
	keep        = 3 // manifests
)

// ErrFormat means that a manifest is not one that this program can read.
var ErrFormat = errors.New("manifest: unknown format")

// Manifest is what a catalogue said.
type Manifest struct {
	Format      int                          `json:"format"`
	Change      int64                        `json:"change"` // of the change feed, at least; above all before, where the feed began anew
	Cluster     Cluster                      `json:"cluster"`
	Topics      []Topic                      `json:"topics"`
	Deleted     []string                     `json:"deleted,omitempty"` // ids of topics whose objects are still to go
	Brokers     map[string]map[string]string `json:"brokers,omitempty"` // dynamic settings; "": of all
	Sessions    map[int32]int64              `json:"sessions"`          // the highest session epoch of each broker id
	Epochs      map[kafka.Slot]int32         `json:"epochs"`            // leader epochs
	ProducerIDs int64                        `json:"producer_ids"`      // the next that is given out
	Starts      []Start                      `json:"starts,omitempty"`
}

// Cluster is what is fixed of a cluster, and its feature level.
type Cluster struct {
	ID    string `json:"id"`
	Slots int    `json:"slots"`
	Level int    `json:"level"`
}

// Topic is a topic.
type Topic struct {
	Name              string            `json:"name"`
	ID                string            `json:"id"` // 32 hexadecimal digits
	Partitions        int32             `json:"partitions"`
	ReplicationFactor int16             `json:"replication_factor"`
	Configs           map[string]string `json:"configs,omitempty"`
}

// Start is a log start that is not 0.
type Start struct {
	Topic     string       `json:"topic"` // id
	Partition int32        `json:"partition"`
	Offset    kafka.Offset `json:"offset"`
}

// Take reads a manifest from a catalogue. What changes meanwhile may be in it or not.
func Take(ctx context.Context, cat *catalog.Catalog) (*Manifest, error) {
	m := &Manifest{Format: format, Epochs: make(map[kafka.Slot]int32)}
	for _, read := range []func(context.Context, *catalog.Catalog) error{m.readCluster, m.readTopics, m.readStarts} {
		if err := bounded(ctx, func(ctx context.Context) error { return read(ctx, cat) }); err != nil {
			return nil, fmt.Errorf("take manifest: %w", err)
		}
	}
	return m, nil
}

func (m *Manifest) readCluster(ctx context.Context, cat *catalog.Catalog) error {
	if err := cat.Refresh(ctx); err != nil {
		return err
	}
	cl, err := cat.ReadCluster(ctx)
	if err != nil {
		return err
	}
	m.Change, m.Cluster = cat.Applied(), Cluster(cl)
	for n, o := range cat.Members().Owners(cl.Slots) {
		if o.Epoch >= 0 {
			m.Epochs[kafka.Slot(n)] = int32(o.Epoch)
		}
	}
	if m.Sessions, err = cat.SessionEpochs(ctx); err != nil {
		return err
	}
	m.ProducerIDs, err = cat.NextProducerID(ctx)
	return err
}

func (m *Manifest) readTopics(ctx context.Context, cat *catalog.Catalog) error {
	topics := cat.Topics()
	for _, t := range topics.All() {
		m.Topics = append(m.Topics, Topic{t.Name, t.ID.Hex(), t.Partitions, t.ReplicationFactor, t.Configs})
	}
	m.Brokers = topics.AllBrokerConfigs()
	deleted, err := cat.DeletedTopics(ctx)
	for _, t := range deleted {
		m.Deleted = append(m.Deleted, t.ID.Hex())
	}
	return err
}

func (m *Manifest) readStarts(ctx context.Context, cat *catalog.Catalog) error {
	done := make(map[kafka.Slot]bool)
	for _, t := range cat.Topics().All() {
		for p := range t.Partitions {
			slot := kafka.PartitionSlot(t.Name, p, m.Cluster.Slots)
			if done[slot] {
				continue
			}
			done[slot] = true
			var starts map[kafka.TopicPartition]kafka.Offset
			err := bounded(ctx, func(ctx context.Context) (err error) {
				starts, err = cat.LogStarts(ctx, slot)
				return err
			})
			if err != nil {
				return err
			}
			for tp, off := range starts {
				m.Starts = append(m.Starts, Start{tp.Topic.Hex(), tp.Partition, off})
			}
		}
	}
	return nil
}

// Newest returns the newest manifest in a store, with the highest log starts of
// all that are there. objstore.ErrNotFound: there is none. ErrFormat.
func Newest(ctx context.Context, store objstore.Store) (*Manifest, error) {
	var keys []string
	err := bounded(ctx, func(ctx context.Context) error {
		return eachKey(ctx, store, func(key string) { keys = append(keys, key) })
	})
	if err == nil && len(keys) == 0 {
		err = objstore.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("look for a manifest: %w", err)
	}
	var newest *Manifest
	highest := make(map[Start]kafka.Offset) // by a Start without offset
	for i := len(keys) - 1; i >= 0; i-- {
		m, err := read(ctx, store, keys[i])
		if errors.Is(err, objstore.ErrNotFound) && newest != nil {
			continue // pruned meanwhile
		}
		if err != nil {
			return nil, err
		}
		if newest == nil {
			newest = m
		}
		for _, s := range m.Starts {
			of := Start{Topic: s.Topic, Partition: s.Partition}
			highest[of] = max(highest[of], s.Offset)
		}
	}
	newest.Starts = newest.Starts[:0]
	for s, off := range highest {
		s.Offset = off
		newest.Starts = append(newest.Starts, s)
	}
	return newest, nil
}

// Check sees to it that the objects in a store are those of the cluster id, as far as its newest manifest tells; there is none
// below feature level 2, and of a cluster that has just begun. catalog.ErrForeign.
func Check(ctx context.Context, store objstore.Store, id string) error {
	newest := ""
	err := bounded(ctx, func(ctx context.Context) error {
		return eachKey(ctx, store, func(key string) { newest = key })
	})
	if err != nil || newest == "" {
		return err
	}
	m, err := read(ctx, store, newest)
	if err == nil && m.Cluster.ID != id {
		err = fmt.Errorf("%w: their manifest is of cluster %s, the catalogue of %s", catalog.ErrForeign, m.Cluster.ID, id)
	}
	return err
}

func read(ctx context.Context, store objstore.Store, key string) (*Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	buf := make([]byte, 64<<10)
	n, size, err := store.ReadAt(ctx, key, buf, 0)
	if size > int64(len(buf)) && size <= maxBytes {
		buf = make([]byte, size)
		n, size, err = store.ReadAt(ctx, key, buf, 0)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	m := new(Manifest)
	if int64(n) != size {
		return nil, fmt.Errorf("read %s: %w: %d bytes, %d were read", key, ErrFormat, size, n)
	}
	if err := json.Unmarshal(buf[:n], m); err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", key, ErrFormat, err)
	}
	if m.Format != format {
		return nil, fmt.Errorf("read %s: %w: %d", key, ErrFormat, m.Format)
	}
	return m, nil
}

func eachKey(ctx context.Context, store objstore.Store, fn func(key string)) error {
	for after := ""; ; {
		page, err := store.List(ctx, KeyPrefix, after, objstore.MaxList)
		if err != nil {
			return err
		}
		for _, o := range page {
			fn(o.Key)
			after = o.Key
		}
		if len(page) < objstore.MaxList {
			return nil
		}
	}
}

// body returns a manifest's text.
func (m *Manifest) body() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return b, nil
}

// same tells whether two manifests say the same, whatever changes lie between.
func same(a, b *Manifest) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Change, y.Change = 0, 0
	tx, errx := x.body()
	ty, erry := y.body()
	return errx == nil && erry == nil && bytes.Equal(tx, ty)
}

func bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return fn(ctx)
}
