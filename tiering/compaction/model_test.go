package compaction

import (
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
)

// modelBatch is a batch as Kafka's cleaner sees it.
type modelBatch struct {
	base, last kafka.Offset
	pid        int64
	epoch      int16
	control    bool
	commit     bool
	txn        int // the transaction that it belongs to or ends; 0: none
	horizon    int64
	records    []modelRecord
}

type modelRecord struct {
	off        kafka.Offset
	at         int64
	key, value string
	noKey      bool
	tombstone  bool
}

// model is a log as it should be, and what became of its transactions.
type model struct {
	batches []modelBatch
	aborted map[int]bool // by transaction
	anyTime bool         // when a horizon was stamped is not compared
}

// clean does what one pass of Kafka's cleaner does: the last record of each key
// below end stays. It looks at all of the log at once.
func (m *model) clean(end, tip kafka.Offset, st *bundle.State, now, keep int64) {
	last, left := make(map[string]kafka.Offset), make(map[int]bool)
	for _, b := range m.batches {
		if !b.control {
			left[b.txn] = true
		}
		for _, r := range b.records {
			if !b.control && !m.aborted[b.txn] && !r.noKey && r.off < end {
				last[r.key] = r.off
			}
		}
	}
	lastOf := make(map[int64]kafka.Offset)
	for _, p := range st.Producers {
		lastOf[p.ID] = -1
		if n := len(p.Batches); n > 0 {
			lastOf[p.ID] = p.Batches[n-1].BaseOffset + kafka.Offset(p.Batches[n-1].LastSeq-p.Batches[n-1].FirstSeq)
		}
	}
	var out []modelBatch
	for _, b := range m.batches {
		if b.base < end {
			b = m.cleanBatch(b, end, now, keep, last, left)
		}
		keepEmpty := b.last == tip
		if off, ok := lastOf[b.pid]; ok && b.pid >= 0 {
			keepEmpty = keepEmpty || b.last == off || off < 0 && b.control
		}
		if len(b.records) > 0 || keepEmpty || b.base >= end {
			out = append(out, b)
		}
	}
	m.batches = out
}

func (m *model) cleanBatch(b modelBatch, end kafka.Offset, now, keep int64, last map[string]kafka.Offset, left map[int]bool) modelBatch {
	if b.control {
		switch {
		case left[b.txn] || b.last >= end || len(b.records) == 0:
		case b.horizon == 0:
			b.horizon = now + keep
		case now >= b.horizon:
			b.records = nil
		}
		return b
	}
	if m.aborted[b.txn] {
		if b.last < end {
			b.records = nil
		}
		return b
	}
	var stay []modelRecord
	tombstones := false
	for _, r := range b.records {
		switch {
		case r.off >= end:
		case r.noKey, last[r.key] > r.off:
			continue
		case r.tombstone && b.horizon > 0 && now >= b.horizon:
			continue
		}
		stay, tombstones = append(stay, r), tombstones || r.tombstone
	}
	b.records = stay
	if tombstones && b.horizon == 0 {
		b.horizon = now + keep
	}
	return b
}

// forget removes what lies below a log's start.
func (m *model) forget(start kafka.Offset) {
	for len(m.batches) > 0 && m.batches[0].last < start {
		m.batches = m.batches[1:]
	}
}

// lines writes batches as text, to be compared.
func (m *model) lines(from kafka.Offset) []string {
	var all []string
	for _, b := range m.batches {
		if b.last < from {
			continue
		}
		text := fmt.Sprintf("%d-%d pid %d control %v", b.base, b.last, b.pid, b.control)
		if b.horizon > 0 && len(b.records) > 0 && !m.anyTime {
			text += fmt.Sprintf(" horizon %d", b.horizon)
		}
		for _, r := range b.records {
			text += fmt.Sprintf(" %d@%d %q=%q", r.off, r.at, r.key, r.value)
		}
		all = append(all, text)
	}
	return all
}

// parse reads a batch as a client does.
func parse(b []byte) modelBatch {
	h, err := record.ParseHeader(b)
	if err == nil {
		err = record.VerifyCRC(b)
	}
	if err != nil {
		panic(err)
	}
	m := modelBatch{base: h.BaseOffset, last: h.LastOffset(), pid: h.ProducerID, epoch: h.ProducerEpoch, control: h.Control()}
	if at, ok := h.DeleteHorizon(); ok {
		m.horizon = at
	}
	for r, err := range record.Records(b, 1<<20) {
		if err != nil {
			panic(err)
		}
		rec := modelRecord{off: h.OffsetOf(&r), at: h.TimeOf(&r), key: string(r.Key), value: string(r.Value), noKey: r.Key == nil, tombstone: r.Value == nil}
		if len(r.Headers) > 0 {
			rec.value += "," + r.Headers[0].Key
		}
		m.records = append(m.records, rec)
	}
	return m
}
