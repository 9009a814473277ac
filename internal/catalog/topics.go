package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// Topic is a topic's entry.
type Topic struct {
	Name              string
	ID                kafka.TopicID
	Partitions        int32
	ReplicationFactor int16
	Configs           map[string]string // the topic's own settings; receivers do not change it
	item              meta.Item
}

// CollisionError means that a name differs from an existing one only in '.'
// and '_', which Kafka refuses because metrics could not tell them apart.
type CollisionError struct{ With string }

// Error names the other topic.
func (e *CollisionError) Error() string { return "collides with existing topic: " + e.With }

// Topics is an immutable snapshot of all topics and dynamic broker settings.
type Topics struct {
	change  int64 // the newest change that it has
	level   int   // the cluster's feature level; 0: there is no cluster
	members *Members
	byName  map[string]*Topic
	byID    map[kafka.TopicID]*Topic
	byFold  map[string]string // '.' as '_' → name
	brokers map[string]map[string]string
	starts  startChanges
}

func newTopics() *Topics {
	return &Topics{change: -1, members: newMembers(), byName: map[string]*Topic{}, byID: map[kafka.TopicID]*Topic{}, byFold: map[string]string{}, brokers: map[string]map[string]string{}}
}

// ByName returns a topic.
func (t *Topics) ByName(name string) (*Topic, bool) { topic, ok := t.byName[name]; return topic, ok }

// ByID returns a topic.
func (t *Topics) ByID(id kafka.TopicID) (*Topic, bool) { topic, ok := t.byID[id]; return topic, ok }

// All returns the topics by name.
func (t *Topics) All() []*Topic {
	return slices.SortedFunc(maps.Values(t.byName), func(a, b *Topic) int { return strings.Compare(a.Name, b.Name) })
}

// Len returns the number of topics.
func (t *Topics) Len() int { return len(t.byName) }

// Collision returns the topic that a name collides with, if any.
func (t *Topics) Collision(name string) (string, bool) {
	with, ok := t.byFold[fold(name)]
	return with, ok && with != name
}

// BrokerConfigs returns the dynamic settings of a broker ("": of all).
func (t *Topics) BrokerConfigs(broker string) map[string]string { return t.brokers[broker] }

// AllBrokerConfigs returns the dynamic settings of all that have any.
func (t *Topics) AllBrokerConfigs() map[string]map[string]string { return maps.Clone(t.brokers) }

func fold(name string) string { return strings.ReplaceAll(name, ".", "_") }

func (t *Topics) clone() *Topics {
	return &Topics{change: t.change, level: t.level, members: t.members, starts: t.starts, byName: maps.Clone(t.byName), byID: maps.Clone(t.byID), byFold: maps.Clone(t.byFold), brokers: maps.Clone(t.brokers)}
}

func (t *Topics) remove(name string) {
	if old := t.byName[name]; old != nil {
		delete(t.byID, old.ID)
		delete(t.byFold, fold(name))
		delete(t.byName, name)
	}
}

func (t *Topics) put(topic *Topic) {
	t.remove(topic.Name)
	t.byName[topic.Name], t.byID[topic.ID], t.byFold[fold(topic.Name)] = topic, topic, topic.Name
}

const topicsPK = "topics"

func topicOf(item meta.Item) (*Topic, error) {
	f := read(item)
	id, err := kafka.ParseTopicID(f.text("id"))
	t := &Topic{Name: item.SK, ID: id, Partitions: int32(f.int("partitions")), ReplicationFactor: int16(f.int("rf")), item: bare(item)}
	f.json("configs", &t.Configs)
	if f.err != nil {
		return nil, f.err
	}
	return t, err
}

func (t Topic) attrs() meta.Attrs {
	configs := t.Configs
	if configs == nil {
		configs = map[string]string{}
	}
	return meta.Attrs{
		"v": format, "id": t.ID.Hex(), "partitions": int64(t.Partitions), "rf": int64(t.ReplicationFactor), "configs": jsonText(configs),
	}
}

func (c *Catalog) topic(ctx context.Context, name string) (*Topic, error) {
	item, err := c.get(ctx, topicsPK, name)
	if err != nil {
		return nil, err
	}
	if item.Version == 0 {
		return nil, fmt.Errorf("topic %q: %w", name, ErrNotFound)
	}
	return topicOf(item)
}

// topicByID reads a topic as it is now. Its name comes from the snapshot.
func (c *Catalog) topicByID(ctx context.Context, id kafka.TopicID) (*Topic, error) {
	known, ok := c.Topics().ByID(id)
	if !ok {
		if err := c.Refresh(ctx); err != nil {
			return nil, err
		}
		if known, ok = c.Topics().ByID(id); !ok {
			return nil, fmt.Errorf("topic %s: %w", id, ErrNotFound)
		}
	}
	t, err := c.topic(ctx, known.Name)
	if err == nil && t.ID != id {
		return nil, fmt.Errorf("topic %s: %w", id, ErrNotFound)
	}
	return t, err
}

// CreateTopic creates a topic, with a new id if it has none. ErrExists, or a
// *CollisionError.
func (c *Catalog) CreateTopic(ctx context.Context, t Topic) (Topic, error) {
	if t.ID == (kafka.TopicID{}) {
		t.ID = newID()
	}
	key := meta.Key{PK: topicsPK, SK: t.Name}
	id, err := c.change(ctx, &entry{kind: "topic", name: t.Name}, func(now *Topics) ([]meta.Op, error) {
		item, err := c.get(ctx, topicsPK, t.Name)
		if err != nil {
			return nil, err
		}
		if item.Version > 0 {
			return nil, ErrExists
		}
		if with, ok := now.Collision(t.Name); ok {
			return nil, &CollisionError{With: with}
		}
		return []meta.Op{meta.Create(key, t.attrs())}, nil
	})
	if err != nil {
		return Topic{}, fmt.Errorf("create topic %q: %w", t.Name, err)
	}
	t.item = written(meta.Create(key, t.attrs()), id)
	return t, nil
}

// DeleteTopic deletes a topic and leaves a tombstone, from which its segments
// are found and removed. id, unless zero, is what the topic of that name must
// have. ErrNotFound.
func (c *Catalog) DeleteTopic(ctx context.Context, name string, id kafka.TopicID) error {
	_, err := c.change(ctx, &entry{kind: "topic", name: name}, func(*Topics) ([]meta.Op, error) {
		t, err := c.topic(ctx, name)
		if err != nil {
			return nil, err
		}
		if id != (kafka.TopicID{}) && t.ID != id {
			return nil, ErrNotFound
		}
		tomb := meta.Key{PK: "tombstones", SK: t.ID.Hex()}
		return []meta.Op{
			meta.Delete(t.item),
			meta.Create(tomb, meta.Attrs{"v": format, "name": name, "id": t.ID.Hex(), "partitions": int64(t.Partitions), "at": time.Now().UnixMilli()}),
		}, nil
	})
	if err != nil {
		return fmt.Errorf("delete topic %q: %w", name, err)
	}
	return nil
}

// ErrPartitions means that a topic cannot have that number of partitions: it
// has as many or more.
var ErrPartitions = errors.New("catalog: not more partitions than there are")

// AddPartitions raises a topic's number of partitions to n. ErrNotFound, ErrPartitions.
func (c *Catalog) AddPartitions(ctx context.Context, name string, n int32) error {
	return c.alterTopic(ctx, name, func(t *Topic) error {
		if n <= t.Partitions {
			return ErrPartitions
		}
		t.Partitions = n
		return nil
	})
}

// AlterTopicConfigs changes a topic's own settings. fn is given a copy of them and
// returns the new ones, or an error, which ends the change; it may be called
// again. ErrNotFound.
func (c *Catalog) AlterTopicConfigs(ctx context.Context, name string, fn func(map[string]string) (map[string]string, error)) error {
	return c.alterTopic(ctx, name, func(t *Topic) (err error) {
		configs := maps.Clone(t.Configs)
		if configs == nil {
			configs = map[string]string{}
		}
		t.Configs, err = fn(configs)
		return err
	})
}

func (c *Catalog) alterTopic(ctx context.Context, name string, fn func(*Topic) error) error {
	_, err := c.change(ctx, &entry{kind: "topic", name: name}, func(*Topics) ([]meta.Op, error) {
		t, err := c.topic(ctx, name)
		if err != nil {
			return nil, err
		}
		next := *t
		if err := fn(&next); err != nil {
			return nil, err
		}
		return []meta.Op{meta.Replace(t.item, next.attrs())}, nil
	})
	if err != nil {
		return fmt.Errorf("alter topic %q: %w", name, err)
	}
	return nil
}

// AlterBrokerConfigs changes the dynamic settings of a broker, "" for those of
// all. fn works as in AlterTopicConfigs.
func (c *Catalog) AlterBrokerConfigs(ctx context.Context, broker string, fn func(map[string]string) (map[string]string, error)) error {
	_, err := c.change(ctx, &entry{kind: "broker", name: broker}, func(*Topics) ([]meta.Op, error) {
		item, configs, err := c.brokerConfigs(ctx, broker)
		if err != nil {
			return nil, err
		}
		if configs, err = fn(configs); err != nil {
			return nil, err
		}
		return []meta.Op{meta.Put(item, meta.Attrs{"v": format, "configs": jsonText(configs)})}, nil
	})
	if err != nil {
		return fmt.Errorf("alter settings of broker %q: %w", broker, err)
	}
	return nil
}

func (c *Catalog) brokerConfigs(ctx context.Context, broker string) (meta.Item, map[string]string, error) {
	configs := map[string]string{}
	item, err := c.get(ctx, "config", "broker/"+broker)
	if err != nil || item.Version == 0 {
		return item, configs, err
	}
	f := read(item)
	f.json("configs", &configs)
	return item, configs, f.err
}

// DeletedTopic is a topic whose segments are still to be removed.
type DeletedTopic struct {
	Name       string
	ID         kafka.TopicID
	Partitions int32
	Emptied    time.Time // when its last segment was unreferenced; zero: not yet
	item       meta.Item
}

// DeletedTopics returns the tombstones.
func (c *Catalog) DeletedTopics(ctx context.Context) ([]DeletedTopic, error) {
	items, err := c.all(ctx, "tombstones", "")
	if err != nil {
		return nil, fmt.Errorf("list deleted topics: %w", err)
	}
	var all []DeletedTopic
	for _, it := range items {
		f := read(it)
		id, err := kafka.ParseTopicID(f.text("id"))
		t := DeletedTopic{Name: f.text("name"), ID: id, Partitions: int32(f.int("partitions")), item: it}
		if _, ok := it.Attrs["emptied"]; ok {
			t.Emptied = time.UnixMilli(f.int("emptied"))
		}
		if err = errors.Join(f.err, err); err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// MarkEmptied notes that no segment of a deleted topic is referenced any more.
// ErrFenced: the tombstone has changed.
func (c *Catalog) MarkEmptied(ctx context.Context, t DeletedTopic) error {
	attrs := maps.Clone(t.item.Attrs)
	attrs["emptied"] = time.Now().UnixMilli()
	if _, err := c.commit(ctx, meta.Replace(bare(t.item), attrs)); err != nil {
		return fmt.Errorf("mark topic %q as emptied: %w", t.Name, fencedIf(err))
	}
	return nil
}

// ForgetTopic removes a tombstone: nothing of the topic is left.
func (c *Catalog) ForgetTopic(ctx context.Context, t DeletedTopic) error {
	_, err := c.commit(ctx, meta.Delete(t.item))
	if errors.Is(err, meta.ErrConflict) {
		return nil // somebody else has
	}
	return err
}
