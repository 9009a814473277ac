package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// Level is the cluster feature level that this program writes.
const Level = 1

// ErrLevel means that the cluster's feature level is above this program's.
var ErrLevel = errors.New("catalog: this program is older than the cluster")

// Cluster is what is fixed when a cluster is created.
type Cluster struct {
	ID    string // 22 characters, a 128-bit id in URL-safe base64, as Kafka's
	Slots int    // the number of slots
	Level int    // feature level: which formats may be written
}

// Cluster returns the cluster, which it creates with that many slots where
// there is none.
func (c *Catalog) Cluster(ctx context.Context, slots int) (Cluster, error) {
	var cl Cluster
	err := again(ctx, func() error {
		item, err := c.get(ctx, "cluster", "info")
		if err != nil {
			return err
		}
		if item.Version > 0 {
			cl, err = clusterOf(item)
			return err
		}
		cl = Cluster{ID: kafka.TopicID(newID()).String(), Slots: slots, Level: Level}
		_, err = c.commit(ctx, meta.Create(item.Key, meta.Attrs{"v": format, "id": cl.ID, "slots": int64(slots), "level": int64(Level)}))
		return err
	})
	if err != nil {
		return Cluster{}, fmt.Errorf("read cluster: %w", err)
	}
	return cl, nil
}

// ReadCluster returns the cluster, or ErrNotFound. It writes nothing.
func (c *Catalog) ReadCluster(ctx context.Context) (Cluster, error) {
	item, err := c.get(ctx, "cluster", "info")
	if err == nil && item.Version == 0 {
		err = ErrNotFound
	}
	var cl Cluster
	if err == nil {
		cl, err = clusterOf(item)
	}
	if err != nil {
		return Cluster{}, fmt.Errorf("read cluster: %w", err)
	}
	return cl, nil
}

func clusterOf(item meta.Item) (Cluster, error) {
	f := read(item)
	cl := Cluster{ID: f.text("id"), Slots: int(f.int("slots")), Level: int(f.int("level"))}
	if cl.Level > Level && f.err == nil {
		return cl, fmt.Errorf("%w: feature level %d, it knows %d", ErrLevel, cl.Level, Level)
	}
	return cl, f.err
}

// newID returns a random id whose text never begins with '-', which tools
// would take for a flag.
func newID() (id [16]byte) {
	rand.Read(id[:])
	id[0] &= 0x7f
	return id
}

// ProducerIDBlock reserves n producer ids, from first on. Ids of a block
// whose outcome stayed unknown are never given to anyone.
func (c *Catalog) ProducerIDBlock(ctx context.Context, n int64) (first int64, err error) {
	err = again(ctx, func() error {
		item, err := c.get(ctx, "pids", "next")
		if err != nil {
			return err
		}
		first = 0
		if item.Version > 0 {
			f := read(item)
			if first = f.int("next"); f.err != nil {
				return f.err
			}
		}
		if first > 1<<62 {
			return errors.New("producer ids are used up")
		}
		_, err = c.commit(ctx, meta.Put(item, meta.Attrs{"v": format, "next": first + n}))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reserve producer ids: %w", err)
	}
	return first, nil
}
