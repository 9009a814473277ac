package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// TxnState is where a transactional id is, under Kafka's names.
//
//	Empty ──▶ Ongoing ──▶ PrepareCommit ──▶ CompleteCommit ──▶ Ongoing …
//	              └─────▶ PrepareAbort  ──▶ CompleteAbort  ──▶ Ongoing …
type TxnState string

// The states.
const (
	TxnEmpty          TxnState = "Empty"
	TxnOngoing        TxnState = "Ongoing"
	TxnPrepareCommit  TxnState = "PrepareCommit"
	TxnPrepareAbort   TxnState = "PrepareAbort"
	TxnCompleteCommit TxnState = "CompleteCommit"
	TxnCompleteAbort  TxnState = "CompleteAbort"
)

// Txn is a transactional id: its producer, and its transaction of the moment
// (KIP-98, KIP-360, KIP-890). The item is all there is of it: whoever acts on
// it reads it, and writes it on condition that it is as it was read.
type Txn struct {
	ID   string     `json:"-"`
	Slot kafka.Slot `json:"-"` // of its coordinator

	ProducerID int64 `json:"pid"`
	Epoch      int16 `json:"epoch"`
	// LastEpoch is the epoch before the newest raise, if the producer asked for
	// that by its epoch: a repeat of the question has the same answer. -1: none.
	LastEpoch int16 `json:"last"`
	// PrevProducerID is the id before the newest one, which came because the epochs were used up. -1: none.
	PrevProducerID int64 `json:"prev"`
	// NextProducerID takes the place of ProducerID, with epoch 0, when what is prepared is complete. -1: none does.
	NextProducerID int64    `json:"next"`
	TimeoutMs      int32    `json:"timeout"` // transaction.timeout.ms of the client
	State          TxnState `json:"state"`
	// Number counts the id's transactions; it is what its markers have as the
	// coordinator's epoch. It begins at 1 and goes on with 0 behind 2^31-1.
	Number int32 `json:"n"`
	// Partitions has what the transaction wrote to, by the topics' ids in hex, ascending.
	Partitions map[string][]int32 `json:"parts,omitempty"`
	Groups     []string           `json:"groups,omitempty"` // whose offsets it commits, ascending
	StartMs    int64              `json:"start,omitempty"`  // when the transaction began, ms since the Unix epoch
	UpdateMs   int64              `json:"update"`           // when the item was written last

	item meta.Item
}

// Exists tells whether the catalogue knows the id.
func (t *Txn) Exists() bool { return t.State != "" }

// Prepared tells whether the transaction has been decided, and is being ended.
func (t *Txn) Prepared() bool { return t.State == TxnPrepareCommit || t.State == TxnPrepareAbort }

// Has tells whether the transaction knows a partition.
func (t *Txn) Has(tp kafka.TopicPartition) bool {
	_, ok := slices.BinarySearch(t.Partitions[tp.Topic.Hex()], tp.Partition)
	return ok
}

// Add enters a partition.
func (t *Txn) Add(tp kafka.TopicPartition) {
	topic := tp.Topic.Hex()
	if i, ok := slices.BinarySearch(t.Partitions[topic], tp.Partition); !ok {
		if t.Partitions == nil {
			t.Partitions = make(map[string][]int32)
		}
		t.Partitions[topic] = slices.Insert(t.Partitions[topic], i, tp.Partition)
	}
}

// Count returns how many partitions the transaction knows.
func (t *Txn) Count() (n int) {
	for _, parts := range t.Partitions {
		n += len(parts)
	}
	return n
}

// All returns the transaction's partitions, in order.
func (t *Txn) All() ([]kafka.TopicPartition, error) {
	var all []kafka.TopicPartition
	for hex, parts := range t.Partitions {
		topic, err := kafka.ParseTopicID(hex)
		if err != nil {
			return nil, fmt.Errorf("transaction of %q: %w", t.ID, err)
		}
		for _, p := range parts {
			all = append(all, kafka.TopicPartition{Topic: topic, Partition: p})
		}
	}
	slices.SortFunc(all, kafka.TopicPartition.Compare)
	return all, nil
}

func txnsPK(slot kafka.Slot) string { return fmt.Sprintf("txns/%05d", slot) }

// ReadTxn reads a transactional id; one that is not there does not exist.
func (c *Catalog) ReadTxn(ctx context.Context, slot kafka.Slot, id string) (Txn, error) {
	item, err := c.get(ctx, txnsPK(slot), storedID(id))
	if err != nil {
		return Txn{}, fmt.Errorf("read transactional id %q: %w", id, err)
	}
	if item.Version == 0 {
		return Txn{ID: id, Slot: slot, item: item}, nil
	}
	return txnOf(slot, item)
}

func txnOf(slot kafka.Slot, item meta.Item) (Txn, error) {
	var t Txn
	f := read(item)
	f.json("txn", &t)
	t.ID, t.Slot, t.item = idOf(item.SK), slot, bare(item)
	if f.err != nil {
		return Txn{}, fmt.Errorf("transactional id %q: %w", t.ID, f.err)
	}
	return t, nil
}

// Txns returns the transactional ids of a slot.
func (c *Catalog) Txns(ctx context.Context, slot kafka.Slot) ([]Txn, error) {
	items, err := c.all(ctx, txnsPK(slot), "")
	if err != nil {
		return nil, fmt.Errorf("list transactional ids of slot %d: %w", slot, err)
	}
	all := make([]Txn, len(items))
	for i, it := range items {
		if all[i], err = txnOf(slot, it); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// SaveTxn writes a transactional id on condition that it is as t was read or
// saved. ErrFenced: it is not. ErrTooLarge: the id, or what the transaction
// knows, does not fit an item.
func (c *Catalog) SaveTxn(ctx context.Context, t Txn) (Txn, error) {
	op := t.put()
	id, err := c.commit(ctx, op)
	return t.saved(op, id, err)
}

// SaveOwnedTxn is SaveTxn on condition that slot is owned as it says, too. ErrFenced: one of both is not so.
func (c *Catalog) SaveOwnedTxn(ctx context.Context, slot Slot, t Txn) (Txn, error) {
	op := t.put()
	id, err := c.withSlot(ctx, slot, []meta.Op{op})
	return t.saved(op, id, err)
}

func (t Txn) put() meta.Op { return meta.Put(t.item, meta.Attrs{"v": format, "txn": jsonText(t)}) }

// saved returns t as a commit of op has left it.
func (t Txn) saved(op meta.Op, id string, err error) (Txn, error) {
	if err != nil {
		return t, fmt.Errorf("save transactional id %q: %w", t.ID, fencedIf(err))
	}
	t.item = written(op, id)
	return t, nil
}

// DeleteTxn removes a transactional id that is as t was read or saved, or is
// gone. ErrFenced: it is another.
func (c *Catalog) DeleteTxn(ctx context.Context, t Txn) error {
	_, err := c.commit(ctx, meta.Delete(t.item))
	if err = fencedIf(err); err != nil {
		if errors.Is(err, ErrFenced) {
			if now, gerr := c.get(ctx, t.item.PK, t.item.SK); gerr == nil && now.Version == 0 {
				return nil
			}
		}
		return fmt.Errorf("delete transactional id %q: %w", t.ID, err)
	}
	return nil
}
