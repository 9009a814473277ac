package record

import (
	"github.com/varvelog/varve/internal/kafka"
)

// FindTimestamp returns the first record of a batch whose time is ts or later.
func FindTimestamp(b []byte, ts int64) (off kafka.Offset, at int64, ok bool, err error) {
	h, err := ParseHeader(b)
	if err != nil || h.MaxTimestamp < ts {
		return 0, 0, false, err
	}
	err = eachTime(b, func(o kafka.Offset, t int64) bool {
		if ok = t >= ts; ok {
			off, at = o, t
		}
		return !ok
	})
	return off, at, ok, err
}

// MaxTimestampOffset returns the first record that has the batch's largest
// time (KIP-734). With LogAppendTime that is the first of all.
func MaxTimestampOffset(b []byte) (off kafka.Offset, ts int64, err error) {
	off, ts = -1, -1
	err = eachTime(b, func(o kafka.Offset, t int64) bool {
		if t > ts {
			off, ts = o, t
		}
		return true
	})
	return off, ts, err
}

// eachTime calls fn with the offset and time of a batch's records until it
// returns false. A compressed batch is not held as a whole.
func eachTime(b []byte, fn func(kafka.Offset, int64) bool) error {
	h, err := ParseHeader(b)
	if err != nil {
		return err
	}
	if h.Size() > len(b) {
		return ErrTruncated
	}
	s, err := scan(b, h, MaxDecompressed)
	if err != nil {
		return err
	}
	defer s.close()
	for range h.NumRecords {
		r := s.record()
		if s.bad {
			return s.fail()
		}
		if !fn(h.BaseOffset+kafka.Offset(r.offsetDelta), h.timeOf(r.timestampDelta)) {
			return nil
		}
	}
	return nil
}

// timeOf returns the time of a record with that delta.
func (h Header) timeOf(delta int64) int64 {
	if h.LogAppendTime() {
		return h.MaxTimestamp
	}
	return h.FirstTimestamp + delta
}
