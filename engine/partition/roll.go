package partition

import (
	"time"

	"github.com/varvelog/varve/internal/kafka/config"
)

// tail describes the hot tail for the decision to seal it.
type tail struct {
	bytes   int64
	slices  int
	age     time.Duration // since its first slice came
	maxTime int64         // its largest timestamp, ms; 0: none has one
}

// RollDue tells whether the hot tail should be sealed into a segment of its
// own: by segment.bytes, segment.ms, the number of slices, when all of it has
// expired by retention.ms (only sealed records can be removed), or, at a checkpoint,
// when it has reached own bytes (else 0). What has expired is sealed once it
// is as old as check, the interval of retention: records that come with old
// timestamps shall not be sealed one by one.
func (l *Log) RollDue(now time.Time, own int64, check time.Duration) bool {
	t, ok := l.tail(now)
	return ok && rollDue(t, l.o.Config(), now, own, check)
}

// HotBytes returns the bytes of the slices that are not sealed.
func (l *Log) HotBytes() int64 {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hot.bytes
}

func (l *Log) tail(now time.Time) (t tail, ok bool) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	t = tail{bytes: d.hot.bytes, slices: len(d.hot.slices), age: now.Sub(time.UnixMilli(d.since)), maxTime: d.hot.maxTime}
	return t, t.slices > 0
}

func rollDue(t tail, cfg config.Topic, now time.Time, own int64, check time.Duration) bool {
	segmentMs := cfg.SegmentMs
	if cfg.Compact {
		segmentMs = min(segmentMs, cfg.MaxCompactionLagMs) // only sealed records can be compacted (KIP-354)
	}
	switch {
	case t.bytes >= cfg.SegmentBytes, t.slices >= rollSlices:
		return true
	case own > 0 && t.bytes >= own:
		return true
	case t.age.Milliseconds() >= segmentMs:
		return true
	}
	return cfg.Delete && cfg.RetentionMs >= 0 && t.age >= check && t.maxTime > 0 && now.UnixMilli()-t.maxTime > cfg.RetentionMs
}
