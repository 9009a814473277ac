// Package upload writes what leaves the WAL: sealed segments, and checkpoints
// of the tails that are too short for one.
//
//	slices of WAL bundles ──read through the object cache──▶ batches checked ──▶ one bundle, streamed into a PUT
//
// Memory does not grow with what is written; every batch's checksum and offset
// is checked on the way, so damage is never sealed. Nothing is registered
// here: the caller commits what it gets to the catalogue (upload, then commit,
// then publish). What a failed or abandoned upload leaves in the store is named by its
// writer's session and referenced nowhere, so the sweep finds it.
package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

// ErrCorrupt means that a slice is not what its reference says, or that the
// slices don't make up what the caller wants to be written. Nothing was sealed,
// and trying again will not help.
var ErrCorrupt = errors.New("upload: slice does not hold what it should")

const (
	// attempts at one upload, each under a key of its own.
	attempts = 3
	// chunkBytes is how much of a slice is read at once for a segment.
	chunkBytes        = 4 << 20
	defaultPutTimeout = 5 * time.Minute
)

// Keys of what this package writes begin with these. Nothing else is ever sent in parts.
const (
	SegmentPrefix    = "seg/"
	CheckpointPrefix = "ckpt/"
)

// Options say where to, and as whom.
type Options struct {
	Store  objstore.Store
	Cache  *objcache.Cache
	Origin bundle.Origin     // the session; Seq unused
	Level  zstd.EncoderLevel // of segments; 0: the fastest
	// Count numbers this session's uploads, for unique keys.
	Count *atomic.Int64
	// Pace is called before each n bytes are read, and may wait, so that
	// sealing yields to produce; nil: never. Its error ends the upload.
	Pace      func(ctx context.Context, n int64) error
	MaxFooter int // bytes of a checkpoint's; 0: bundle.MaxFooter
	// PutTimeout bounds one attempt; 0: five minutes.
	PutTimeout time.Duration
}

// Ref is a run of whole batches of one partition in an object.
type Ref = bundle.Ref

// Put writes an object, under a new key at each attempt, and returns the key
// that was written: an attempt whose outcome is unknown may still land, and
// must not be taken for another's. A failure that is the source's, of write and not of its
// Writer, is not tried again. write is called anew for each attempt, by one
// goroutine at a time.
func (o *Options) Put(ctx context.Context, key func(n int64) string, write func(context.Context, bundle.Origin, io.Writer) error) (string, error) {
	timeout := o.PutTimeout
	if timeout == 0 {
		timeout = defaultPutTimeout
	}
	var errs []error
	for range attempts {
		origin := o.Origin
		origin.Seq = o.Count.Add(1)
		attempt, cancel := context.WithTimeout(ctx, timeout)
		b := &body{write: func(w io.Writer) error { return write(attempt, origin, w) }}
		err := o.Store.Put(attempt, key(origin.Seq), b)
		cancel()
		if err == nil {
			return key(origin.Seq), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || b.failed {
			break
		}
	}
	return "", errors.Join(errs...)
}

// body makes a repeatable object body of a function that writes it.
type body struct {
	write  func(w io.Writer) error
	failed bool // write did, for a reason of its own
}

// WriteTo writes the body.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	c := &counter{w: w}
	err := b.write(c)
	b.failed = err != nil && c.err == nil
	return c.n, err
}

// counter counts what goes to w, and remembers how it failed.
type counter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
