package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// Bound is a place in each partition of a topic. The zero Bound is the
// beginning for Options.From and the end for Options.To.
type Bound struct {
	kind boundKind
	at   int64 // offset, or ms
}

type boundKind uint8

const (
	unset boundKind = iota
	byOffset
	byTime
	byEnd
)

// Offset is the place before the record with an offset. To begin below what is
// still there is ErrOutOfRange.
func Offset(n int64) Bound { return Bound{byOffset, n} }

// Time is the place before the first record whose timestamp is at or behind t;
// the end where there is none.
func Time(t time.Time) Bound { return Bound{byTime, t.UnixMilli()} }

// End is the end as it is when the replay is opened.
func End() Bound { return Bound{kind: byEnd} }

// Live is the same place for a franz-go consumer; the zero Bound is the beginning.
func (b Bound) Live() kgo.Offset {
	switch b.kind {
	case byOffset:
		return kgo.NewOffset().At(b.at)
	case byTime:
		return kgo.NewOffset().AfterMilli(b.at)
	case byEnd:
		return kgo.NewOffset().AtEnd()
	default:
		return kgo.NewOffset().AtStart()
	}
}

// Position is from where a topic is read on. It can be kept as JSON.
type Position struct {
	Topic   string          `json:"topic"`
	TopicID string          `json:"topic_id"` // 32 hexadecimal digits
	Next    map[int32]int64 `json:"next"`     // by partition: the next offset
}

// bound finds from where to where a partition is read.
func (r *Replay) bound(ctx context.Context, p *partition) error {
	tail := r.tails.now().of(p.tp)
	end, durable, err := r.end(ctx, p, tail)
	if err != nil {
		return err
	}
	start, err := r.logStart(ctx, p)
	if err != nil {
		return err
	}
	from, to := r.o.From, r.o.To
	if r.o.Resume != nil {
		if n, ok := r.o.Resume.Next[p.tp.Partition]; ok {
			from = Offset(n)
		}
	}
	if to.kind == unset || r.o.Follow {
		to = End()
	}
	p.exact = from.kind == byOffset
	if p.from, err = r.place(ctx, p, from, start, end); err != nil {
		return err
	}
	if p.to, err = r.place(ctx, p, to, start, end); err != nil {
		return err
	}
	switch {
	case p.from < 0 || p.to < 0:
		return errors.New("a negative offset")
	case p.exact && p.from < start:
		return fmt.Errorf("%w: offset %d, the log starts at %d", ErrOutOfRange, p.from, start)
	case p.exact && p.from > durable:
		return fmt.Errorf("%w: offset %d, the log ends at %d", ErrOutOfRange, p.from, durable)
	}
	p.to = max(min(p.to, end), p.from)
	p.next.Store(int64(p.from))
	return nil
}

func (r *Replay) place(ctx context.Context, p *partition, b Bound, start, end kafka.Offset) (kafka.Offset, error) {
	switch b.kind {
	case byOffset:
		return kafka.Offset(b.at), nil
	case byTime:
		off, ok, err := r.findTime(ctx, p.tp, b.at)
		if err != nil || !ok {
			return end, err
		}
		return min(max(off, start), end), nil
	case byEnd:
		return end, nil
	}
	return start, nil
}

// findTime returns the first record whose time is ts (ms) or later: of the
// sealed segments, else of the tail.
func (r *Replay) findTime(ctx context.Context, tp kafka.TopicPartition, ts int64) (kafka.Offset, bool, error) {
	seen := r.tails.now()
	for range resolves {
		off, _, _, ok, err := r.src.cold.FindTimestamp(ctx, tp, ts)
		if err != nil || ok {
			return off, ok, err
		}
		off, ok, err = r.findTimeIn(ctx, seen.of(tp), ts)
		if !errors.Is(err, errGone) {
			return off, ok, err
		}
		if seen, err = r.tails.renew(ctx, seen.number); err != nil {
			return 0, false, err
		}
	}
	return 0, false, fmt.Errorf("%w: the tail behind the sealed segments", ErrLost)
}

func (r *Replay) findTimeIn(ctx context.Context, t recovery.Tail, ts int64) (kafka.Offset, bool, error) {
	for _, ref := range t.Hot {
		if ref.MaxTimestamp < ts {
			continue
		}
		raw, err := r.readRef(ctx, nil, ref)
		if err != nil {
			return 0, false, err
		}
		for b, err := range record.Split(raw) {
			if err != nil {
				return 0, false, fmt.Errorf("read %s: %w: %w", ref.Key, bundle.ErrCorrupt, err)
			}
			if off, _, ok, err := record.FindTimestamp(b, ts); err != nil || ok {
				return off, ok, err
			}
		}
	}
	return 0, false, nil
}
