// Package wal is the log of one session: the ordered objects
// wal/<broker>/<session>/<seq> that hold the durable tail of all its
// partitions together, and the seal that ends it.
//
// A Writer gathers what the partitions append and puts it as bundles at
// consecutive sequence numbers, create-only, a few at a time:
//
//	Append ─▶ queue ─▶ object n+2 ─┐ in flight         ┌─▶ Fill the object cache,
//	                   object n+1 ─┤ (PUT until its    │   then Durable of each slice,
//	                   object n   ─┘  fate is known) ──┴─▶ in sequence order
//
// An object's bytes never change once they were sent. What happened to a PUT
// is known when the store says that it was applied, or when the object under
// its key was read: it is mine, or it is a seal, and then the session has
// ended. Seal puts that seal from outside, behind the last object that made it;
// so nothing is ever acknowledged at or behind a seal, without any clock.
package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
)

var (
	// ErrClosed means that the writer takes nothing more: it is being
	// closed, or Run has ended.
	ErrClosed = errors.New("wal: closed")
	// ErrFenced means that somebody else sealed this session. What was not
	// durable then never will be; the session is over.
	ErrFenced = errors.New("wal: fenced")
	// ErrHole means that an object below a session's seal is missing, or is
	// not what should be there: acknowledged records may be lost.
	ErrHole = errors.New("wal: hole below the seal")
)

// Target is a partition's log, as the writer sees it.
type Target interface {
	// Durable tells that a slice of batches became durable and readable
	// under key. It is called in the order of Append, from Run's goroutine;
	// it must not block.
	Durable(key string, s bundle.Slice)
	// Announce wakes who waits for what Durable told. It follows once that is
	// told of all slices of an object.
	Announce()
}

// Entry is one batch to be made durable. The writer keeps Data, unchanged,
// until the object cache drops it: nobody may write to it any more.
type Entry struct {
	Target Target
	Slot   kafka.Slot
	TP     kafka.TopicPartition
	Batch  bundle.Batch // Pos and Len are filled in by the writer
	Data   []byte       // the whole batch, stamped
}

// Options configures a Writer.
type Options struct {
	Store  objstore.Store
	Origin bundle.Origin // the session; Seq is the first object's number, usually 0

	// Fill keeps an object's batches in the object cache once it is durable,
	// before its Durable calls. Nil: none.
	Fill func(key string, pieces []objcache.Piece)
	// Fenced is called once, from Run's goroutine, as soon as somebody
	// else's seal is seen: Append fails from then on, and what waits will not
	// become durable, but for objects before the seal whose Durable calls may
	// still follow until Run returns. It must not block. Nil: none.
	Fenced func()

	MaxBytes     int           // bytes of batches in an object, unless one batch is longer; default 16 MiB
	FlushBytes   int           // waiting bytes that start a PUT beside those in flight; default 1 MiB, with an interval 8 MiB
	Interval     time.Duration // least time between two PUTs, unless FlushBytes wait, or Hasten was called; 0: none, but for a millisecond in crowds
	InFlight     int           // PUTs at a time; default 4
	PendingBytes int64         // bytes appended and not durable at which Admit blocks; default 64 MiB
	PutTimeout   time.Duration // of one attempt; default 30 s
	Hedge        bool          // send a PUT a second time when it is slower than the running p99; one of twenty at most

	Metrics *Metrics     // nil: none
	Logger  *slog.Logger // nil: none
}

func (o *Options) setDefaults() {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxBytes, 16<<20)
	if o.Interval > 0 {
		def(&o.FlushBytes, o.MaxBytes/2)
	}
	def(&o.FlushBytes, 1<<20)
	def(&o.InFlight, 4)
	if o.PendingBytes <= 0 {
		o.PendingBytes = 64 << 20
	}
	if o.PutTimeout <= 0 {
		o.PutTimeout = defaultPutTimeout
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Key returns the key of the WAL object or seal of o's session at o.Seq.
func Key(o bundle.Origin) string { return fmt.Sprintf("%s%020d", Prefix(o.Broker, o.Epoch), o.Seq) }

// KeyPrefix is what the keys of all WALs begin with.
const KeyPrefix = "wal/"

// Prefix returns what the keys of a session's WAL begin with.
func Prefix(broker int32, epoch int64) string {
	return fmt.Sprintf(KeyPrefix+"%010d/%020d/", broker, epoch)
}

// ParseKey reads a key that Key made; ok is false for any other. Listings are long, so it is quick.
func ParseKey(key string) (o bundle.Origin, ok bool) {
	rest, ok := strings.CutPrefix(key, KeyPrefix)
	if !ok || len(rest) != 10+1+20+1+20 || rest[10] != '/' || rest[31] != '/' {
		return o, false
	}
	broker, err1 := strconv.ParseUint(rest[:10], 10, 31)
	epoch, err2 := strconv.ParseUint(rest[11:31], 10, 63)
	seq, err3 := strconv.ParseUint(rest[32:], 10, 63)
	return bundle.Origin{Broker: int32(broker), Epoch: int64(epoch), Seq: int64(seq)}, err1 == nil && err2 == nil && err3 == nil
}
