package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// The cluster feature levels that this program works at. A new cluster begins at
// the highest; an old one is raised by RaiseLevel.
const (
	MinLevel = 1
	Level    = 3
)

// LevelNames is the first feature level at which the object store has what a
// catalogue that was lost is rebuilt from, besides the log: manifests, and the marked ends of sealed
// sessions. Programs of level 1 do not know these objects.
const LevelNames = 2

// LevelTxns is the first feature level at which there are transactions: items of
// transactional ids, and offsets of groups that wait for a transaction's end. Programs of
// level 2 would pass over them.
const LevelTxns = 3

// ErrLevel means that a program does not work at the cluster's feature level.
var ErrLevel = errors.New("catalog: this program does not work at the cluster's feature level")

const (
	clusterPK = "cluster"
	infoSK    = "info"
)

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
		item, err := c.get(ctx, clusterPK, infoSK)
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
	item, err := c.get(ctx, clusterPK, infoSK)
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
	switch {
	case f.err != nil:
		return cl, f.err
	case cl.Level == restoring:
		return cl, ErrRestoring
	case cl.Level < MinLevel || cl.Level > Level:
		return cl, fmt.Errorf("%w: the cluster is at %d, the program works at %d to %d", ErrLevel, cl.Level, MinLevel, Level)
	}
	return cl, nil
}

// newID returns a random id whose text never begins with '-', which tools
// would take for a flag.
func newID() (id [16]byte) {
	rand.Read(id[:])
	id[0] &= 0x7f
	return id
}

// NextProducerID returns the first producer id that was not given out.
func (c *Catalog) NextProducerID(ctx context.Context) (int64, error) {
	item, err := c.get(ctx, "pids", "next")
	if err != nil || item.Version == 0 {
		return 0, err
	}
	f := read(item)
	return f.int("next"), f.err
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
