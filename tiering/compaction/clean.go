package compaction

import (
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
)

// rules say what stays in one pass over a log.
type rules struct {
	now    int64        // ms
	keep   int64        // delete.retention.ms
	end    kafka.Offset // the keys are those of records below; what lies behind stays
	tip    kafka.Offset // last offset of the last batch, which keeps the log's end and state
	keys   *keys
	active map[int64]active // by producer id
}

// active is where a producer's last batch of records ends, which keeps its
// sequence numbers; -1 where it has none, then its last marker keeps its epoch.
type active struct {
	last  kafka.Offset
	epoch int16
}

// activeOf returns where the producers of a log's state have their last batches.
func activeOf(st *bundle.State) map[int64]active {
	all := make(map[int64]active, len(st.Producers))
	for _, p := range st.Producers {
		a := active{last: -1, epoch: p.Epoch}
		if n := len(p.Batches); n > 0 {
			b := p.Batches[n-1]
			a.last = b.BaseOffset + kafka.Offset((int64(b.LastSeq)-int64(b.FirstSeq))&0x7fffffff)
		}
		all[p.ID] = a
	}
	return all
}

// cleaner cleans one batch after the other. It is used by one goroutine.
type cleaner struct {
	rules
	txns    *txns
	filter  record.Filter
	count   counts
	aborted []bundle.AbortedTxn // whose markers stay
}

// counts are what a cleaner has seen.
type counts struct {
	batches, records         int64 // read
	leftBatches, leftRecords int64
	changed                  bool // some batch went, or is another
}

// batch returns what stays of a batch: the batch itself, a new one, or nil.
// b's checksum was verified.
func (c *cleaner) batch(b []byte) ([]byte, error) {
	h, err := record.ParseHeader(b)
	if err != nil {
		return nil, err
	}
	c.count.batches++
	c.count.records += int64(h.NumRecords)
	out, err := c.cleaned(b, h)
	if err != nil {
		return nil, fmt.Errorf("clean batch at offset %d: %w", h.BaseOffset, err)
	}
	if out != nil {
		left, err := record.ParseHeader(out)
		if err != nil {
			return nil, err
		}
		c.count.leftBatches++
		c.count.leftRecords += int64(left.NumRecords)
	}
	if len(out) == 0 || &out[0] != &b[0] {
		c.count.changed = true
	}
	return out, nil
}

func (c *cleaner) cleaned(b []byte, h record.Header) ([]byte, error) {
	if h.Control() {
		return c.control(b, h)
	}
	aborted := c.txns.data(h)
	if aborted && h.LastOffset() < c.end {
		return c.emptied(b, h), nil
	}
	if aborted || h.BaseOffset >= c.end {
		return b, nil
	}
	tombstones := false
	horizon, stamped := h.DeleteHorizon()
	kept, err := c.filter.Select(b, record.MaxDecompressed, func(r *record.Record) bool {
		keep := c.retained(h.OffsetOf(r), r, stamped && c.now >= horizon)
		tombstones = tombstones || keep && r.Value == nil
		return keep
	})
	switch {
	case err != nil:
		return nil, err
	case kept == 0:
		return c.emptied(b, h), nil
	case tombstones && !stamped:
		return c.filter.Batch(c.horizon())
	case kept == h.NumRecords:
		return b, nil
	}
	return c.filter.Batch(-1)
}

// retained tells whether a record stays. due: the tombstones of its batch may go.
func (c *cleaner) retained(off kafka.Offset, r *record.Record, due bool) bool {
	switch {
	case off >= c.end:
		return true
	case r.Key == nil: // from before the topic was compacted
		return false
	}
	return !c.keys.later(r.Key, off) && (r.Value != nil || !due)
}

// control cleans a marker. It goes when none of its transaction's records are
// left and, from then on, delete.retention.ms have passed.
func (c *cleaner) control(b []byte, h record.Header) ([]byte, error) {
	kind := int16(-1)
	if h.NumRecords > 0 {
		var err error
		if kind, _, err = record.MarkerType(b); err != nil {
			return nil, err
		}
	}
	empty, ended := c.txns.marker(h, kind)
	horizon, stamped := h.DeleteHorizon()
	goes := empty && h.LastOffset() < c.end
	if h.NumRecords == 0 || goes && stamped && c.now >= horizon {
		return c.emptied(b, h), nil
	}
	if ended != nil { // for who has read its records from an entry that is replaced since
		c.aborted = append(c.aborted, *ended)
	}
	if !goes || stamped {
		return b, nil
	}
	if _, err := c.filter.Select(b, record.MaxDecompressed, func(*record.Record) bool { return true }); err != nil {
		return nil, err
	}
	return c.filter.Batch(c.horizon())
}

// horizon returns the time from which what is stamped now may go.
func (c *cleaner) horizon() int64 {
	if h := c.now + c.keep; h >= c.now {
		return h
	}
	return 1<<63 - 1
}

// emptied returns what stays of a batch without records: nothing, unless it is
// the last one of its producer, or of the log.
func (c *cleaner) emptied(b []byte, h record.Header) []byte {
	if h.LastOffset() != c.tip && !c.lastOfProducer(h) {
		return nil
	}
	if h.NumRecords == 0 {
		return b
	}
	return record.Emptied(h)
}

func (c *cleaner) lastOfProducer(h record.Header) bool {
	a, ok := c.active[h.ProducerID]
	switch {
	case !ok || h.ProducerID < 0:
		return false
	case a.last >= 0:
		return h.LastOffset() == a.last
	}
	return h.Control() && h.ProducerEpoch == a.epoch
}
