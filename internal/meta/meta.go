// Package meta is the port to the metadata store: one table of small items,
// written only by conditional, all-or-nothing commits.
//
// An item has a partition key and a sort key, readable attributes, a version
// that grows by one with each write, and the id of the commit that wrote it
// last. Conditions compare version and commit id, so an item that was deleted
// and created again never passes for the old one. Nothing here reads a clock:
// what a commit may do is decided by its conditions alone.
package meta

import (
	"context"
	"errors"
)

// Limits that every adapter enforces before it sends anything, taken from
// DynamoDB (TransactWriteItems, item size).
const (
	MaxOps       = 100       // operations in one commit
	MaxPKBytes   = 2048      // of a partition key
	MaxSKBytes   = 1024      // of a sort key
	MaxItemBytes = 400 << 10 // keys and attributes of one item
	MaxTxnBytes  = 4 << 20   // all items of one commit
)

// The outcomes of a call. Any error of Commit that is none of ErrConflict,
// ErrBusy and ErrInvalid means that the outcome is unknown: the commit may have been
// applied, may not have been, or may still be applied after any later read.
// It is settled only by a read that shows it applied (an item's CommitID), or
// by one's own later commit on the same item, which makes its condition false.
var (
	// ErrNotFound is returned by Get for an item that does not exist.
	ErrNotFound = errors.New("meta: item not found")
	// ErrConflict means that this commit was not applied and can never be:
	// one of its conditions was false.
	ErrConflict = errors.New("meta: condition failed")
	// ErrBusy means that this commit was not applied and may be repeated:
	// throttled, a transaction conflict, a busy database.
	ErrBusy = errors.New("meta: busy, not applied")
	// ErrInvalid means that the commit was refused before it was sent: over
	// a limit, two operations on one item, an unsupported attribute.
	ErrInvalid = errors.New("meta: invalid commit")
)

// Key names an item.
type Key struct {
	PK string // partition key, not empty, UTF-8
	SK string // sort key, not empty, UTF-8; items of one PK are ordered by its bytes
}

// Attrs are an item's attributes. A value is a string, an int64, a bool or a
// []byte, strings are UTF-8; adapters refuse anything else with ErrInvalid.
// Receivers do not change them.
type Attrs map[string]any

// Item is what the store holds under a key. The zero Version means "no such
// item" where an operation takes an old item.
type Item struct {
	Key
	Version  int64  // 1 at creation, plus one with each Replace
	CommitID string // id of the last commit that wrote it
	Attrs    Attrs
}

// OpKind says what an operation does.
type OpKind uint8

// The kinds of operations.
const (
	OpCreate  OpKind = iota + 1 // Key must not exist
	OpReplace                   // Old must still be there, unchanged
	OpDelete                    // Old must still be there, unchanged
	OpCheck                     // Old must still be there, unchanged; with Version 0: must not exist
)

// Op is one operation of a commit. Build it with Create, Replace, Delete or Check.
type Op struct {
	Kind  OpKind
	Key   Key
	Old   Item
	Attrs Attrs
}

// Create makes a new item.
func Create(key Key, attrs Attrs) Op { return Op{Kind: OpCreate, Key: key, Attrs: attrs} }

// Replace replaces all attributes of an item that is still as old says.
func Replace(old Item, attrs Attrs) Op {
	return Op{Kind: OpReplace, Key: old.Key, Old: old, Attrs: attrs}
}

// Delete removes an item that is still as old says.
func Delete(old Item) Op { return Op{Kind: OpDelete, Key: old.Key, Old: old} }

// Check demands that an item is still as old says (same version and commit
// id), or, when old.Version is 0, that it does not exist.
func Check(old Item) Op { return Op{Kind: OpCheck, Key: old.Key, Old: old} }

// Put is Create when old does not exist (Version 0) and Replace otherwise.
func Put(old Item, attrs Attrs) Op {
	if old.Version == 0 {
		return Create(old.Key, attrs)
	}
	return Replace(old, attrs)
}

// Range selects sort keys of one partition key: those with Prefix that are
// greater than After, at most Limit of them (0: the adapter's page), in
// ascending order, or descending with Reverse (then less than After, if set).
type Range struct {
	Prefix  string
	After   string
	Limit   int
	Reverse bool
}

// Store is the metadata store. All methods are safe for concurrent use and
// never retry a conditional write by themselves. The caller gives each call a
// deadline. Reads are strongly consistent: they see every commit that was
// answered before they began.
type Store interface {
	// Get returns the item, or ErrNotFound.
	Get(ctx context.Context, key Key) (Item, error)

	// Query returns a page of items. More follow if more is true: ask again
	// with After set to the last sort key. A page is no snapshot: a commit may
	// come between two of its items (DynamoDB reads them one after the other).
	Query(ctx context.Context, pk string, r Range) (items []Item, more bool, err error)

	// Commit applies all operations or none, durably before it returns nil.
	// id names this commit and is new for each one (NewCommitID); the items
	// that it writes carry it. Every item stands in at most one operation.
	Commit(ctx context.Context, id string, ops ...Op) error
}
