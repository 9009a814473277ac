package manifest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	settle = time.Second     // changes of so long a time become one manifest
	retry  = 5 * time.Second // after a failure
	look   = 5 * time.Minute // for what is in no change: log starts that DeleteRecords raised
)

// Keeper keeps the object store's manifest up to date. Several at once do no harm.
type Keeper struct {
	Catalog *catalog.Catalog
	Store   objstore.Store
	Writer  func() (name string, ok bool) // names what is written, one for each session; not ok: others do it
	Warn    func(error)

	count int
	mine  bool // the newest manifest was this cluster's, or there was none
	last  *Manifest
}

// Run writes a manifest at once, soon after each change, and now and then, until
// ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		changed := k.Catalog.Changed()
		pause := look
		if err := k.write(ctx); err != nil && ctx.Err() == nil {
			k.Warn(err)
			pause, changed = retry, nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			continue
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
	}
}

// write writes a manifest if it would say anything new.
func (k *Keeper) write(ctx context.Context) error {
	writer, ok := k.Writer()
	if !ok {
		k.last = nil
		return nil
	}
	m, err := Take(ctx, k.Catalog)
	if err != nil || same(m, k.last) {
		return err
	}
	if err := k.check(ctx, m); err != nil {
		return err
	}
	if m, err = k.number(ctx, m); err != nil {
		return err
	}
	k.count++
	if err := Write(ctx, k.Store, m, fmt.Sprintf("%s-%d", writer, k.count)); err != nil {
		return err
	}
	k.last = m
	return k.prune(ctx)
}

// check sees to it, once, that no other cluster's manifests are hidden and pruned: they tell its sweep, and this one's,
// whose objects lie here. catalog.ErrForeign.
func (k *Keeper) check(ctx context.Context, m *Manifest) error {
	if k.mine {
		return nil
	}
	err := Check(ctx, k.Store, m.Cluster.ID)
	k.mine = err == nil
	return err
}

// number gives a manifest a number that is above those of all that are there if they are not of this
// catalogue's feed, which began anew: the table was lost, or is an older copy.
func (k *Keeper) number(ctx context.Context, m *Manifest) (*Manifest, error) {
	top, err := topChange(ctx, k.Store)
	if err != nil || top <= m.Change {
		return m, err
	}
	m, err = Take(ctx, k.Catalog) // what another writer knew before the listing is in this one
	if err == nil && m.Change < top {
		m.Change = top + 1
	}
	return m, err
}

// topChange returns the greatest number of the manifests in a store, -1 without one.
func topChange(ctx context.Context, store objstore.Store) (top int64, err error) {
	top = -1
	err = bounded(ctx, func(ctx context.Context) error {
		return eachKey(ctx, store, func(key string) {
			number, _, _ := strings.Cut(strings.TrimPrefix(key, KeyPrefix), "-")
			if n, err := strconv.ParseInt(number, 10, 64); err == nil {
				top = max(top, n)
			}
		})
	})
	if err != nil {
		return 0, fmt.Errorf("look for manifests: %w", err)
	}
	return top, nil
}

// Write writes a manifest under a key that names its writer.
func Write(ctx context.Context, store objstore.Store, m *Manifest, writer string) error {
	slices.SortFunc(m.Starts, func(a, b Start) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	b, err := m.body()
	if err != nil {
		return err
	}
	err = bounded(ctx, func(ctx context.Context) error {
		return store.Put(ctx, fmt.Sprintf(KeyPrefix+"%020d-%s", m.Change, writer), objstore.Buffers{b})
	})
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// prune deletes all manifests but the newest.
func (k *Keeper) prune(ctx context.Context) error {
	var keys []string
	err := bounded(ctx, func(ctx context.Context) error {
		return eachKey(ctx, k.Store, func(key string) { keys = append(keys, key) })
	})
	keys = keys[:max(0, len(keys)-keep)]
	for lot := range slices.Chunk(keys, objstore.MaxDeleteKeys) {
		if err == nil {
			err = bounded(ctx, func(ctx context.Context) error { return k.Store.Delete(ctx, lot...) })
		}
	}
	if err != nil {
		return fmt.Errorf("prune manifests: %w", err)
	}
	return nil
}
