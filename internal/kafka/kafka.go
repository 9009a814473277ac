// Package kafka is the vocabulary that every other package shares: offsets,
// epochs, topic ids, slots and error codes, in Kafka's own words.
//
// Each thing that could be confused with another number has a named type.
// The package imports nothing of the project.
package kafka

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/fnv"
)

// Offset is the position of a record in a partition: dense, from 0, never reused.
type Offset int64

// LeaderEpoch counts the owners of a slot, and so the leaders of its
// partitions (KIP-101). It never goes back for a topic name.
type LeaderEpoch int32

// TopicID is a topic's 128-bit id (KIP-516). The zero id is no topic.
type TopicID [16]byte

// ParseTopicID reads the hexadecimal form that Hex writes.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	if len(s) != 2*len(id) {
		return TopicID{}, fmt.Errorf("parse topic id %q: want 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return TopicID{}, fmt.Errorf("parse topic id %q: %w", s, err)
	}
	return id, nil
}

// Hex returns the id as 32 hexadecimal digits, the form used in keys.
func (id TopicID) Hex() string { return hex.EncodeToString(id[:]) }

// String returns the id as Kafka's tools print it: URL-safe base64 without padding.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// TopicPartition names one partition of one life of a topic.
type TopicPartition struct {
	Topic     TopicID
	Partition int32
}

// String returns "<topic id>-<partition>".
func (tp TopicPartition) String() string { return fmt.Sprintf("%s-%d", tp.Topic, tp.Partition) }

// Compare orders partitions by topic id and number: negative, 0 or positive.
func (tp TopicPartition) Compare(o TopicPartition) int {
	return cmp.Or(bytes.Compare(tp.Topic[:], o.Topic[:]), cmp.Compare(tp.Partition, o.Partition))
}

// Slot is the unit of ownership, 0 ≤ slot < the cluster's slot count.
type Slot int32

// PartitionSlot returns the slot of a partition: (hash(topic name) +
// partition) mod slots, so that neighbours lie apart and a name made again
// keeps its slots.
func PartitionSlot(topic string, partition int32, slots int) Slot {
	return Slot((uint64(hash(topic)) + uint64(partition)) % uint64(slots))
}

// GroupSlot returns the slot of a consumer group's coordinator, or of a
// transactional id's.
func GroupSlot(group string, slots int) Slot { return Slot(uint64(hash(group)) % uint64(slots)) }

func hash(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}

// Isolation is a reader's isolation level (KIP-98).
type Isolation int8

// The isolation levels of Fetch and ListOffsets.
const (
	ReadUncommitted Isolation = 0
	ReadCommitted   Isolation = 1
)
