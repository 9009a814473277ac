package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/meta"
)

const deadPK = "dead"

// DeadObjects are objects that one commit has unreferenced. The item is part
// of that commit, so no kill and no lost answer makes anybody forget them.
type DeadObjects struct {
	Keys []string
	Due  time.Time // when they may go: readers that hold an old reference have had time
	item meta.Item
}

// dead returns the operation that notes the objects of old that none of
// next names; none where there are no such objects, or due is zero.
func dead(old, next []Segment, due time.Time) []meta.Op {
	kept := make(map[string]bool, len(next))
	for i := range next {
		kept[next[i].Key] = true
	}
	var keys []string
	for i := range old {
		if key := old[i].Key; key != "" && !kept[key] {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 || due.IsZero() {
		return nil
	}
	sk := fmt.Sprintf("%020d/%s", due.UnixMilli(), meta.NewCommitID()) // one for each commit
	return []meta.Op{meta.Create(meta.Key{PK: deadPK, SK: sk}, meta.Attrs{"v": format, "due": due.UnixMilli(), "keys": jsonText(keys)})}
}

// DeadObjects returns up to limit notes of objects that are due, the oldest
// first.
func (c *Catalog) DeadObjects(ctx context.Context, now time.Time, limit int) ([]DeadObjects, error) {
	items, _, err := c.store.Query(ctx, deadPK, meta.Range{Limit: limit})
	if err != nil {
		return nil, fmt.Errorf("read dead objects: %w", err)
	}
	all, err := deadOf(items)
	n := 0
	for n < len(all) && !all[n].Due.After(now) {
		n++
	}
	return all[:n], err
}

// AllDeadObjects returns the notes of all objects that wait to be deleted.
func (c *Catalog) AllDeadObjects(ctx context.Context) ([]DeadObjects, error) {
	items, err := c.all(ctx, deadPK, "")
	if err != nil {
		return nil, fmt.Errorf("read dead objects: %w", err)
	}
	return deadOf(items)
}

func deadOf(items []meta.Item) ([]DeadObjects, error) {
	var all []DeadObjects
	for _, it := range items {
		f := read(it)
		d := DeadObjects{Due: time.UnixMilli(f.int("due")), item: bare(it)}
		f.json("keys", &d.Keys)
		if f.err != nil {
			return nil, fmt.Errorf("read dead objects: %w", f.err)
		}
		all = append(all, d)
	}
	return all, nil
}

// ForgetDead removes the note of objects that have been deleted.
func (c *Catalog) ForgetDead(ctx context.Context, d DeadObjects) error {
	if _, err := c.commit(ctx, meta.Delete(d.item)); err != nil && !errors.Is(fencedIf(err), ErrFenced) {
		return fmt.Errorf("forget dead objects: %w", err)
	}
	return nil // or somebody else has
}
