// Package partition is one partition's log as its owner holds it: offsets,
// producer states, the index of its hot slices and its watermarks.
//
// A Log has two states, both made by the one function recovery.Fold:
//
//	tip      what was appended: checks producers' sequences, gives the next offset; where all is durable it may rest
//	durable  what the WAL has put: what readers see, snapshots hold, and recovery finds again
//
//	          Append            wal.Target.Durable         Sealed
//	 tip ──────────────▶ WAL ─────────────────────▶ hot ──────────▶ sealed
//	      next offset           high watermark            SealedEnd
//
//	offsets: 0 … logStart … SealedEnd … last stable … high watermark … next
//	             └ cold reader ┘└────── hot index ──────┘└ not visible ┘
//
// The bytes are nowhere in here: a hot slice is a reference to a range of an
// object, read through the object cache. References are resolved under the
// lock and read without it; an object that went meanwhile (sealed, or moved to
// a checkpoint) is resolved again.
package partition

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/wal"
)

// WAL takes appended batches. Append keeps the order of its calls, never
// blocks, and retains the batch's bytes; after an error the batch is not in
// the log. *wal.Writer is one.
type WAL interface {
	Append(e wal.Entry) error
}

// Cache reads ranges of objects; *objcache.Cache is one.
type Cache interface {
	// Read returns exactly n bytes from off, in one or more buffers that
	// must not be changed and are valid until a is released, or
	// objstore.ErrNotFound.
	Read(ctx context.Context, key string, off, n int64, a *objcache.Arena) ([][]byte, error)
	// Prefetch reads what Reads into the same arena are about to want. It may
	// change ranges.
	Prefetch(ctx context.Context, ranges []objcache.Range, a *objcache.Arena)
}

// Cold reads sealed segments; *cold.Reader is one.
type Cold interface {
	// Read returns whole batches; the first holds from or is the next one
	// behind a hole; none where only a hole is left, up to next. next is the
	// offset to go on from. objstore.ErrNotFound
	// means that no segment holds from or anything behind it.
	Read(ctx context.Context, tp kafka.TopicPartition, from kafka.Offset, max int64, a *objcache.Arena) (bufs [][]byte, next kafka.Offset, err error)
	// FindTimestamp returns the first record whose timestamp is at least ts (ms).
	FindTimestamp(ctx context.Context, tp kafka.TopicPartition, ts int64) (kafka.Offset, int64, kafka.LeaderEpoch, bool, error)
	// MaxTimestamp returns the first record with the largest timestamp.
	MaxTimestamp(ctx context.Context, tp kafka.TopicPartition) (kafka.Offset, int64, kafka.LeaderEpoch, bool, error)
	// Aborted returns the aborted transactions that end in sealed segments
	// and touch [from, to).
	Aborted(ctx context.Context, tp kafka.TopicPartition, from, to kafka.Offset) ([]bundle.AbortedTxn, error)
}

// Ref is a hot slice: whole batches of one partition, one behind the other in
// an object.
type Ref = bundle.Ref

// Shared is what the logs of a session have in common.
type Shared struct {
	WAL   WAL
	Cache Cache
	Cold  Cold
	// Confirm tells, by a read of the catalogue, whether the session is
	// live (nil) or may have been ended by somebody. Nil: it is.
	Confirm func(ctx context.Context) error
	Metrics *Metrics // nil: none
}

// Options say which partition a Log is of.
type Options struct {
	*Shared
	TP    kafka.TopicPartition
	Topic string
	Slot  kafka.Slot
	Epoch kafka.LeaderEpoch // the slot's; stamped into every batch
	// Config returns the topic's configuration of the moment.
	Config func() config.Topic
}

// Log is one partition's log. All methods are safe for concurrent use. There may be many
// that nobody uses: what a Log holds all the time is kept small.
type Log struct {
	o       Options
	tip     tip
	durable durable

	// Copies for those that don't lock, written under durable.mu.
	logStart  atomic.Int64 // only grows
	hw        atomic.Int64
	hotSlices atomic.Int64
	traffic   atomic.Int64 // bytes made durable and read since TakeTraffic
	asked     atomic.Bool  // for, since TakeAsked
}

var _ wal.Target = (*Log)(nil)

// New opens a log where recovery left it: with the state up to the durable offset, and the hot
// slices, ascending and without gaps, up to there. t is copied. It panics if the slices have gaps or don't end at the
// state's next offset, and if the log's start lies behind that: records would be lost, and their offsets given again.
func New(o Options, t recovery.Tail, start kafka.Offset) *Log {
	if start > t.State.NextOffset {
		panic(fmt.Sprintf("open %s: the log starts at offset %d, behind its end %d", o.TP, start, t.State.NextOffset))
	}
	now := time.Now()
	t.State.TP, t.State.Slot = o.TP, o.Slot
	l := &Log{o: o}
	l.tip.open(&t.State, now)
	l.durable.open(&o, &t, now)
	l.raiseLogStart(start)
	l.publish()
	return l
}

// TP returns the log's partition.
func (l *Log) TP() kafka.TopicPartition { return l.o.TP }

// Topic returns the topic's name.
func (l *Log) Topic() string { return l.o.Topic }

// Slot returns the partition's slot.
func (l *Log) Slot() kafka.Slot { return l.o.Slot }

// Config returns the topic's configuration of the moment.
func (l *Log) Config() config.Topic { return l.o.Config() }

// TakeTraffic returns the bytes that were made durable and read here since it was called last.
func (l *Log) TakeTraffic() int64 { return l.traffic.Swap(0) }

// Ask notes that somebody asks for the log.
func (l *Log) Ask() {
	if !l.asked.Load() { // a load is cheaper where many ask
		l.asked.Store(true)
	}
}

// Asked tells whether somebody has asked for the log (Set.Get) since TakeAsked.
func (l *Log) Asked() bool { return l.asked.Load() }

// TakeAsked tells whether somebody has asked for the log since it was called last.
func (l *Log) TakeAsked() bool { return l.asked.Load() && l.asked.Swap(false) }

// Epoch returns the leader epoch.
func (l *Log) Epoch() kafka.LeaderEpoch { return l.o.Epoch }

// Confirm tells whether what the log says is true: a session that was ended
// and does not know it yet, paused or slow, has a log that ends too early. Who would tell
// a client something that makes it give up what it knows asks first.
func (l *Log) Confirm(ctx context.Context) error {
	if l.o.Confirm == nil {
		return nil
	}
	return l.o.Confirm(ctx)
}

// Snapshot is what is durable at one moment: a checkpoint or a segment is made
// of it.
type Snapshot struct {
	State   bundle.State
	Hot     []Ref               // from the end of the newest sealed segment, or the log's start
	Aborted []bundle.AbortedTxn // those that end in Hot; the same as State.Aborted
}
