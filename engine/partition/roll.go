package partition

import (
	"math"
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

// RollAt returns when RollDue will be true if nothing is appended; ok is false for never.
func (l *Log) RollAt(check time.Duration) (at time.Time, ok bool) {
	now := time.Now()
	t, ok := l.tail(now)
	if !ok {
		return at, false
	}
	return rollAt(t, l.o.Config(), now, check), true
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
	switch {
	case t.bytes >= cfg.SegmentBytes, t.slices >= rollSlices:
		return true
	case own > 0 && t.bytes >= own:
		return true
	}
	return !now.Before(rollAt(t, cfg, now, check))
}

// rollAt returns when a tail that is as it is now is due by its age.
func rollAt(t tail, cfg config.Topic, now time.Time, check time.Duration) time.Time {
	segmentMs := cfg.SegmentMs
	if cfg.Compact {
		segmentMs = min(segmentMs, cfg.MaxCompactionLagMs) // only sealed records can be compacted (KIP-354)
	}
	since := now.Add(-t.age)
	at := later(since, segmentMs)
	if cfg.Delete && cfg.RetentionMs >= 0 && t.maxTime > 0 {
		expired := later(time.UnixMilli(t.maxTime), cfg.RetentionMs).Add(time.Millisecond)
		if checked := since.Add(check); expired.Before(checked) {
			expired = checked
		}
		if expired.Before(at) {
			at = expired
		}
	}
	return at
}

// later returns the time some milliseconds behind t, which may be as many as an int64 holds.
func later(t time.Time, ms int64) time.Time {
	return t.Add(time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond)/2)) * time.Millisecond)
}
