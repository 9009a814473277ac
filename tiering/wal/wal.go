// Package wal writes, seals and replays the log of one session.
package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// Errors of the writer.
var (
	ErrClosed = errors.New("wal: closed")
	ErrFenced = errors.New("wal: fenced: somebody sealed this session")
	ErrHole   = errors.New("wal: object missing below the seal")
)

// Target learns what became durable.
type Target interface {
	Durable(key string, s bundle.Slice)
}

// Entry is one appended batch.
type Entry struct {
	Target Target
	Slot   kafka.Slot
	TP     kafka.TopicPartition
	Batch  bundle.Batch
	Data   []byte
}

// Options configures a Writer.
type Options struct {
	Store        objstore.Store
	Fill         func(key string, pieces [][]byte) // the object's bytes from its first on, by reference; nil: none
	Fenced       func()                            // called once, from Run, when somebody else's seal was seen; nil: none
	Origin       bundle.Origin                     // Seq: the first object's number
	MaxBytes     int
	FlushBytes   int
	Interval     time.Duration
	InFlight     int
	PendingBytes int64
	PutTimeout   time.Duration
	Hedge        bool
	Metrics      *Metrics
	Logger       *slog.Logger
}

// Metrics counts.
type Metrics struct{}

// Position tells how far a writer is.
type Position struct {
	Next    int64 // sequence number of the next object
	Durable int64 // all objects below are durable and applied
	Bytes   int64 // sum of the sizes of all durable objects
}

// Writer is the group commit.
type Writer struct{}

// New returns a writer.
func New(o Options) *Writer { return nil }

// Append queues a batch.
func (w *Writer) Append(e Entry) error { return nil }

// Admit waits for room.
func (w *Writer) Admit(ctx context.Context, n int) error { return nil }

// Run writes until it is closed, fenced or cancelled.
func (w *Writer) Run(ctx context.Context) error { return nil }

// Flush waits for what has been appended so far.
func (w *Writer) Flush(ctx context.Context) error { return nil }

// Close flushes and seals.
func (w *Writer) Close(ctx context.Context) (sealedAt int64, err error) { return 0, nil }

// Position tells how far the writer is.
func (w *Writer) Position() Position { return Position{} }

// OldestWaiting returns when the oldest batch that is not yet durable was appended.
func (w *Writer) OldestWaiting() time.Time { return time.Time{} }

// Key returns the key of a WAL object or seal.
func Key(o bundle.Origin) string {
	return fmt.Sprintf("wal/%010d/%020d/%020d", o.Broker, o.Epoch, o.Seq)
}

// Seal ends target's WAL.
func Seal(ctx context.Context, store objstore.Store, target bundle.Origin, from int64, sealer bundle.Origin) (at int64, err error) {
	return 0, nil
}

// Span is a run of a session's WAL objects.
type Span struct {
	Session  bundle.Origin // Seq unused
	From, To int64         // To exclusive
}

// Replay reads the footers of a span in order.
func Replay(ctx context.Context, store objstore.Store, span Span, fn func(key string, o *bundle.Object) error) error {
	return nil
}
