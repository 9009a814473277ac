package partition

import (
	"github.com/varvelog/varve/internal/kafka"
)

// Offsets are a log's watermarks.
type Offsets struct {
	LogStart      kafka.Offset
	LastStable    kafka.Offset // the bound of read_committed
	HighWatermark kafka.Offset // the durable offset
	Next          kafka.Offset // the offset that the next append gets
}

// Offsets returns the watermarks.
func (l *Log) Offsets() Offsets {
	o := Offsets{Next: l.next()}
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	o.LogStart = kafka.Offset(l.logStart.Load())
	o.LastStable, o.HighWatermark = l.lastStable(), d.state.NextOffset
	o.Next = max(o.Next, o.HighWatermark)
	return o
}

// lastStable returns the bound of read_committed. What is below the log's start is open no more. durable.mu is held.
func (l *Log) lastStable() kafka.Offset {
	return max(l.durable.state.LastStable, kafka.Offset(l.logStart.Load()))
}

// SealedEnd returns the end (exclusive) of the newest sealed segment.
func (l *Log) SealedEnd() kafka.Offset {
	l.durable.mu.Lock()
	defer l.durable.mu.Unlock()
	return l.durable.state.SealedEnd
}

// EndOffsetForEpoch returns the largest epoch of the log that is not above e, and
// where it ends: the start of the next one, or the high watermark; -1 and -1
// for an epoch that the log has not seen (KIP-101, KIP-279).
func (l *Log) EndOffsetForEpoch(e kafka.LeaderEpoch) (kafka.LeaderEpoch, kafka.Offset) {
	d := &l.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	epochs := d.state.Epochs
	switch {
	case e < 0 || e > l.o.Epoch:
		return -1, -1
	case e == l.o.Epoch:
		return e, d.state.NextOffset
	}
	found := e // an epoch below all that are known ends where the first one begins
	for i := range epochs {
		if epochs[i].Epoch > e {
			return found, epochs[i].Start
		}
		found = epochs[i].Epoch
	}
	return found, d.state.NextOffset
}

// epochAt returns the epoch that an offset was or will be written in, -1 if
// it isn't known any more.
func (d *durable) epochAt(off kafka.Offset) kafka.LeaderEpoch {
	e := kafka.LeaderEpoch(-1)
	for _, s := range d.state.Epochs {
		if s.Start > off {
			break
		}
		e = s.Epoch
	}
	return e
}
