// Package catalog is the typed view of the metadata table: the cluster,
// topics, slots, sessions, segments, groups and their
// offsets, transactional ids.
//
// Every write is a conditional commit that states what it stands on. While
// the outcome of one is unknown, it is repeated with the same id until it is
// applied or a condition is false, and then a read tells whose write did that;
// only what is still open when ctx ends is returned as ErrUnknown. Such a
// write may still land later, and whoever gets ErrUnknown has to read anew.
//
//	cluster        info                      id, slot count, feature level
//	topics         <name>                    id, partitions, configs
//	changes        <number>                  the ordered feed of topic, config, member and level changes
//	tombstones     <topic id>                deleted topics whose segments are still to go
//	config         broker/<id>               dynamic broker settings ("" = cluster-wide)
//	session/<b>    <epoch>                   one life of a broker
//	sessions       <b>                       the highest epoch of each broker id
//	slots          <slot>                    owner, epoch, spans, checkpoints
//	starts/<slot>  <topic id>/<partition>    log start offsets
//	log/<t>/<p>    seg/<base>                sealed segments
//	group/<id>     state, part/…, offsets/…, txn/…  groups
//	groups/<slot>  <id>                      index of them
//	txns/<slot>    <id>                      transactional ids
//	pids           next                      the next producer id
//	jobs           <job>                     the lease of a job, and how far it is
//	dead           <due>/<t>/<p>/<base>      objects that a commit has unreferenced
package catalog

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/varvelog/varve/internal/meta"
)

// Errors of the catalogue.
var (
	// ErrExists means that what should be created is there already.
	ErrExists = errors.New("catalog: exists")
	// ErrNotFound means that what is asked for is not there.
	ErrNotFound = errors.New("catalog: not found")
	// ErrFenced means that the session, slot or group is no longer the
	// caller's: somebody else has taken it.
	ErrFenced = errors.New("catalog: fenced")
	// ErrUnknown means that a write may or may not have been applied.
	ErrUnknown = errors.New("catalog: outcome unknown")
	// ErrForeign means that the object store holds the objects of a cluster that
	// is not this catalogue's.
	ErrForeign = errors.New("catalog: the objects are another cluster's")
	// ErrTooLarge means that a name or value is not what the store takes:
	// over its limits, or not UTF-8. Nothing was written.
	ErrTooLarge = errors.New("catalog: too large")
)

// format is the version of the items' attributes, attribute "v" of each.
const format = int64(1)

// Catalog is the view. All methods are safe for concurrent use; callers give
// each call a deadline.
type Catalog struct {
	store  meta.Store
	topics atomic.Pointer[Topics]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each new snapshot

	made   atomic.Int64  // the newest change that was committed here
	told   chan struct{} // that there is one, for Made
	hint   atomic.Int64  // the newest change that somebody has told of since the last tick of Run
	hinted chan struct{} // that there is one, for Run
}

// New returns a catalogue over a store. Refresh fills its snapshot of topics.
func New(store meta.Store) *Catalog {
	c := &Catalog{store: store, changed: make(chan struct{}), told: make(chan struct{}, 1), hinted: make(chan struct{}, 1)}
	c.topics.Store(newTopics())
	return c
}

// get returns an item, or one with Version 0 where there is none.
func (c *Catalog) get(ctx context.Context, pk, sk string) (meta.Item, error) {
	k := meta.Key{PK: pk, SK: sk}
	item, err := c.store.Get(ctx, k)
	if errors.Is(err, meta.ErrNotFound) {
		return meta.Item{Key: k}, nil
	}
	return item, err
}

// stands tells whether an item is still as it was read; Version 0: not there.
func (c *Catalog) stands(ctx context.Context, item meta.Item) (bool, error) {
	now, err := c.get(ctx, item.PK, item.SK)
	return err == nil && now.Version == item.Version && now.CommitID == item.CommitID, err
}

// all returns all items of a partition key with a prefix.
func (c *Catalog) all(ctx context.Context, pk, prefix string) ([]meta.Item, error) {
	return c.inRange(ctx, pk, meta.Range{Prefix: prefix})
}

// inRange returns all items of a partition key in a range.
func (c *Catalog) inRange(ctx context.Context, pk string, r meta.Range) ([]meta.Item, error) {
	var items []meta.Item
	for {
		page, more, err := c.store.Query(ctx, pk, r)
		if err != nil {
			return nil, err
		}
		items = append(items, page...)
		if !more || len(page) == 0 {
			return items, nil
		}
		r.After = page[len(page)-1].SK
	}
}
