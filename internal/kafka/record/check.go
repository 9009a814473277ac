package record

import (
	"fmt"
	"strings"

	"github.com/varvelog/varve/internal/kafka"
)

const (
	// shown is how many refused records the message names, as in Kafka.
	shown = 3
	// maxRefusals bounds how many are listed. Kafka lists all; but a
	// compressed batch can hold far more records than it has bytes.
	maxRefusals = 1000
)

// refusals gathers what is wrong with the records of a batch.
type refusals struct {
	list     []RecordError
	total    int
	untimely bool // some for their time
}

func (f *refusals) add(index int32, message string) {
	if f.total++; f.total <= maxRefusals {
		f.list = append(f.list, RecordError{index, message})
	}
}

// err returns the answer, nil where nothing is wrong. Where any record is
// refused for its time, all are said to be.
func (f *refusals) err() error {
	switch {
	case f.total == 0:
		return nil
	case f.untimely:
		return &Invalid{Code: kafka.InvalidTimestamp, Message: "One or more records have been rejected due to invalid timestamp", Records: f.list, Reached: true}
	}
	var first []string
	for _, e := range f.list[:min(len(f.list), shown)] {
		first = append(first, fmt.Sprintf("RecordError(batchIndex=%d, message='%s')", e.Index, e.Message))
	}
	message := fmt.Sprintf("One or more records have been rejected due to %d record errors in total, and only showing the first three errors at most: [%s]", f.total, strings.Join(first, ", "))
	return &Invalid{Code: kafka.InvalidRecord, Message: message, Records: f.list, Reached: true}
}

// checkRecords looks at the records, or where that would need decompression
// that nothing else asks for, at the header's times. It returns the largest
// time. plain, if not nil, is what the records decompress to.
func checkRecords(b, plain []byte, h Header, r Rules) (maxMs int64, err error) {
	var f refusals
	if h.Codec() != None && plain == nil && !r.Compacted {
		c := timeRule(h, r)
		if !c.allows(h.timeOf(0)) || !c.allows(h.MaxTimestamp) {
			c.refuse(&f, 0, h.MaxTimestamp)
		}
		return h.MaxTimestamp, f.err()
	}
	s := scanner{b: plain}
	if plain == nil {
		if s, err = scan(b, h, MaxDecompressed); err != nil {
			return 0, refused(err)
		}
		defer s.close()
	}
	if maxMs, err = walk(&s, h, r, &f); err != nil {
		return 0, refused(err)
	}
	return maxMs, f.err()
}

// walk goes over all records. This is the hot path of uncompressed batches.
func walk(s *scanner, h Header, r Rules, f *refusals) (maxMs int64, err error) {
	var keyless string
	c := timeRule(h, r)
	maxMs = -1
	for i := range h.NumRecords {
		rec := s.record()
		if s.bad || rec.offsetDelta != int64(i) {
			return 0, s.fail()
		}
		at := h.timeOf(rec.timestampDelta)
		maxMs = max(maxMs, at)
		switch {
		case r.Compacted && rec.nullKey:
			if keyless == "" {
				keyless = fmt.Sprintf("Compacted topic cannot accept message without key in topic partition %s-%d", r.Topic, r.Partition)
			}
			f.add(i, keyless)
		case !c.allows(at):
			c.refuse(f, i, at)
		}
	}
	if !s.atEnd() {
		return 0, s.fail()
	}
	return maxMs, nil
}

// times says which times a batch's records may have (KIP-937).
type times struct {
	now, before, after int64 // ms
	free               bool  // any: the broker sets its own
	stamped            bool  // the batch claims the broker's time already
}

func timeRule(h Header, r Rules) times {
	return times{r.Now.UnixMilli(), r.BeforeMaxMs, r.AfterMaxMs, r.LogAppendTime, h.LogAppendTime()}
}

// allows tells whether a record may have the time at; -1 is no time. Sums wrap
// around, as in Kafka: a bound of the largest int64 is none.
func (c times) allows(at int64) bool {
	if c.free || at == -1 {
		return !c.stamped
	}
	age := c.now - at
	return age <= c.before && -age <= c.after
}

func (c times) refuse(f *refusals, index int32, at int64) {
	f.untimely = true
	if c.free || at == -1 {
		f.add(index, "Invalid timestamp type in message. Producer should not set timestamp type to LogAppendTime.")
		return
	}
	if f.total >= maxRefusals {
		f.total++
		return
	}
	f.add(index, fmt.Sprintf("Timestamp %d of message with offset %d is out of range. The timestamp should be within [%d, %d]", at, index, c.now-c.before, c.now+c.after))
}
