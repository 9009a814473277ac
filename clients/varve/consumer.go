package varve

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/clients/replay"
)

// Subscription says what a consumer reads. Topics are required.
type Subscription struct {
	Topics []string
	// Group is the consumer group, whose members share the partitions and whose
	// offsets the cluster keeps; "": all partitions, and nothing is kept.
	Group string
	// From is where a partition begins of which the group has no offset, or one
	// that the log has no more; zero: the beginning.
	From Bound
	// Committed leaves out records of aborted and open transactions (read_committed, KIP-98).
	Committed bool
}

// Consumer reads records as they come. Records and Commit are called by one
// goroutine at a time.
type Consumer struct {
	cl    *kgo.Client
	group bool
	left  []*Record // polled, and not yet handled
}

const (
	maxPoll     = 10_000 // records
	commitEvery = time.Second
)

// NewConsumer connects a consumer.
func NewConsumer(ctx context.Context, c Config, s Subscription) (*Consumer, error) {
	if len(s.Topics) == 0 {
		return nil, errors.New("open consumer: no topics")
	}
	opts := []kgo.Opt{kgo.ConsumeTopics(s.Topics...), kgo.ConsumeResetOffset(s.From.Live())}
	if s.Group != "" {
		opts = append(opts, kgo.ConsumerGroup(s.Group), kgo.AutoCommitMarks(), kgo.AutoCommitInterval(commitEvery), kgo.BlockRebalanceOnPoll())
	}
	if s.Committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return open(ctx, c, s.Group != "", opts)
}

// Continue connects a consumer that reads on, from the brokers, where a replay
// has stopped: without gap or duplicate, and without a group.
func Continue(ctx context.Context, c Config, r *replay.Replay) (*Consumer, error) {
	return open(ctx, c, false, r.LiveOptions())
}

func open(ctx context.Context, c Config, group bool, opts []kgo.Opt) (*Consumer, error) {
	cl, err := c.client(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("open consumer: %w", err)
	}
	return &Consumer{cl: cl, group: group}, nil
}

// Records are the records from here on, those of a partition in order, until
// ctx ends, which is the last error; other errors concern a partition and are
// told once each time. A record counts as handled, and its offset is committed within a
// second, when its step of the loop has ended, by break as well; a later Records goes on
// behind it. While some are left that were received, a group does not rebalance.
func (c *Consumer) Records(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for {
			for len(c.left) > 0 {
				r := c.left[0]
				on := yield(r, nil)
				c.left[0], c.left = nil, c.left[1:]
				if c.group {
					c.cl.MarkCommitRecords(r)
				}
				if !on {
					return
				}
			}
			if !c.poll(ctx, yield) {
				return
			}
		}
	}
}

// poll waits for records, and says whether to go on.
func (c *Consumer) poll(ctx context.Context, yield func(*Record, error) bool) bool {
	if c.group {
		c.cl.AllowRebalance()
	}
	fetches := c.cl.PollRecords(ctx, maxPoll)
	c.left = fetches.Records()
	for _, e := range fetches.Errors() {
		if ended := ctx.Err(); ended != nil && errors.Is(e.Err, ended) {
			break
		}
		if errors.Is(e.Err, kgo.ErrClientClosed) {
			return yield(nil, e.Err) && false
		}
		if !yield(nil, fmt.Errorf("consume %s[%d]: %w", e.Topic, e.Partition, e.Err)) {
			return false
		}
	}
	if err := ctx.Err(); err != nil && len(c.left) == 0 {
		return yield(nil, err) && false
	}
	return true
}

// Commit commits the offsets of what was handled now, for the group.
func (c *Consumer) Commit(ctx context.Context) error {
	if !c.group {
		return nil
	}
	if err := c.cl.CommitMarkedOffsets(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Close commits what was handled, leaves the group, and closes the consumer.
func (c *Consumer) Close(ctx context.Context) error {
	err := c.Commit(ctx)
	c.cl.CloseAllowingRebalance()
	return err
}
