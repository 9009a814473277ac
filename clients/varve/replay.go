package varve

import (
	"context"
	"time"

	"github.com/varvelog/varve/clients/replay"
)

// Log is a cluster's log as it lies in its stores, to be read without brokers.
type Log = replay.Source

// Bucket is where a cluster on AWS is.
type Bucket = replay.Bucket

// OpenBucket opens the log of a cluster on AWS, with the credentials of the
// usual environment; reading is all that they must allow.
func OpenBucket(ctx context.Context, b Bucket) (*Log, error) { return replay.OpenBucket(ctx, b) }

// OpenDir opens the log in a data directory.
func OpenDir(ctx context.Context, dir string) (*Log, error) { return replay.OpenDir(ctx, dir) }

// ReplayOptions say what is replayed.
type ReplayOptions = replay.Options

// Replay begins a replay: its Records reads a topic straight from the object
// store, all partitions in parallel; Continue goes on from the brokers.
func Replay(ctx context.Context, l *Log, o ReplayOptions) (*replay.Replay, error) {
	return replay.Open(ctx, l, o)
}

// Bound is a place in each partition; the zero Bound is the beginning, or, as
// the end of a replay, the end.
type Bound = replay.Bound

// Offset is the place before the record with an offset.
func Offset(n int64) Bound { return replay.Offset(n) }

// Time is the place before the first record whose timestamp is at or behind t.
func Time(t time.Time) Bound { return replay.Time(t) }

// End is behind the last record.
func End() Bound { return replay.End() }
