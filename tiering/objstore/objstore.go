// Package objstore is the port to the object store: immutable objects under
// keys, created once, read by range, listed in order, deleted.
//
// Create-only puts are what fencing stands on: of all the writers of one key
// exactly one wins, for ever, as long as nobody deletes the object.
package objstore

import (
	"context"
	"errors"
	"io"
)

// The outcomes of a call. Any error of Put other than ErrExists and
// ErrInvalidKey leaves the outcome unknown: the object may exist, or appear
// after any later read. Repeating the same bytes at the same key is safe.
var (
	// ErrExists means that the key is taken: this put was not applied now
	// (an earlier attempt of the same writer may have been; read to know).
	ErrExists = errors.New("objstore: object exists")
	// ErrNotFound is returned by ReadAt and Stat for an object that does not exist.
	ErrNotFound = errors.New("objstore: object not found")
	// ErrInvalidKey is returned for a key outside the allowed form.
	ErrInvalidKey = errors.New("objstore: invalid key")
)

// Body is the content of an object. WriteTo writes the whole of it and can be
// called again, for a retry: it writes the same bytes each time.
type Body interface{ io.WriterTo }

// Buffers is a Body that lies in memory in pieces. Stores write it without
// joining the pieces where they can (writev). It is not changed by WriteTo.
type Buffers [][]byte

// WriteTo writes all pieces.
func (b Buffers) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for _, p := range b {
		n, err := w.Write(p)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// Size returns the sum of the pieces' lengths in bytes.
func (b Buffers) Size() int64 {
	var n int64
	for _, p := range b {
		n += int64(len(p))
	}
	return n
}

// Alone is the body of an object that outlives those that are put around it: a
// store that has several objects in one file gives it one of its own.
type Alone struct{ Body }

// Info describes an object in a listing.
type Info struct {
	Key  string
	Size int64 // bytes
}

// MaxDeleteKeys is the most keys that one Delete takes (S3 DeleteObjects).
const MaxDeleteKeys = 1000

// Store is an object store. Keys are '/'-separated segments of
// [A-Za-z0-9._=-], no empty segment, none of "." and "..", at most 900 bytes.
// All methods are safe for concurrent use. The caller gives each call a deadline.
// Stores may retry reads; they retry a Put only with the same bytes.
type Store interface {
	// Put creates an object. When it returns nil the object is durable
	// (over power loss) and visible to every later call of any process.
	// When it returns ErrExists the object under the key is durable too.
	// A reader never sees part of an object.
	Put(ctx context.Context, key string, body Body) error

	// ReadAt reads len(p) bytes from off into p, or up to the object's end
	// with io.EOF when less were there. A negative off counts from the end and is cut to
	// the object's start: -65536 with a p of 65,536 reads the last 64 KiB,
	// or the whole of a smaller object, without io.EOF. It returns
	// the bytes read and the object's size; ErrNotFound for no object.
	ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error)

	// List returns up to limit objects whose key starts with prefix and is
	// greater than after, in ascending byte order of keys (0: at most 1,000).
	// Fewer than asked for, and than MaxList, means that there are no more. It is strongly
	// consistent: objects put before it began are in it.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)

	// Delete removes up to MaxDeleteKeys objects; those that do not exist
	// count as removed. On an error any of them may have been removed.
	Delete(ctx context.Context, keys ...string) error
}
