package record

import (
	"encoding/binary"
	"math"

	"github.com/varvelog/varve/internal/kafka"
)

// attrDeleteHorizon says that the base timestamp is not the first record's but
// the time from which tombstones and markers may go (KIP-534).
const attrDeleteHorizon = 1 << 6

// DeleteHorizon returns the time in ms from which the tombstones or the marker
// of a batch may be removed; false for a batch that compaction has not stamped.
func (h Header) DeleteHorizon() (int64, bool) {
	return h.FirstTimestamp, h.Attributes&attrDeleteHorizon != 0
}

// Filter takes records out of batches, one batch after the other. It is used
// by one goroutine and keeps its buffers.
type Filter struct {
	in    Reader
	h     Header
	body  []byte // the records section, decompressed
	kept  []bool // of each record
	count int32  // how many are kept
	first int64  // time of the first one that is kept
	max   int64  // largest time of those that are kept
	plain []byte
}

// Select looks at the records of one whole batch, which decompresses to at
// most limit bytes, and returns how many keep accepts. The batch stays as it
// is. Errors are those of Records.
func (f *Filter) Select(b []byte, limit int, keep func(*Record) bool) (int32, error) {
	if err := f.in.Reset(b, limit); err != nil {
		return 0, err
	}
	f.h, f.body = readHeader(b), f.in.rest
	f.kept, f.count, f.first, f.max = f.kept[:0], 0, -1, -1
	var rec Record
	for {
		ok, err := f.in.Next(&rec)
		if err != nil || !ok {
			return f.count, err
		}
		yes := keep(&rec)
		f.kept = append(f.kept, yes)
		if !yes {
			continue
		}
		at := f.h.timeOf(rec.TimestampDelta)
		if f.count == 0 {
			f.first = at
		}
		f.max = max(f.max, at)
		f.count++
	}
}

// Batch returns the batch that Select was given last, with only the records
// that it accepted, in the same codec. Offsets, times, producer and sequence stay: the
// base offset and the last offset are the old ones whatever is gone between
// them. A horizon of 0 or more is stamped as the delete horizon; one that the
// batch has stays otherwise.
func (f *Filter) Batch(horizon int64) ([]byte, error) {
	attrs, base := f.h.Attributes, f.first
	if _, stamped := f.h.DeleteHorizon(); stamped {
		base = f.h.FirstTimestamp
	}
	if horizon >= 0 {
		attrs, base = attrs|attrDeleteHorizon, horizon
	}
	if err := f.encode(base); err != nil {
		return nil, err
	}
	h := f.h
	h.Attributes, h.FirstTimestamp, h.NumRecords = attrs, base, f.count
	if !h.LogAppendTime() {
		h.MaxTimestamp = f.max
	}
	out, err := compress(h.Codec(), DefaultLevel, appendHeader(nil, h), f.plain)
	if err != nil {
		return nil, err
	}
	if len(out)-lengthPrefix > math.MaxInt32 {
		return nil, ErrTooLarge
	}
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-lengthPrefix))
	setCRC(out)
	return out, nil
}

// encode writes the kept records into plain, their times counted from base.
//
//	length | attributes | time delta | offset delta, key, value, headers
//	  new      as is        new        as is
func (f *Filter) encode(base int64) error {
	body, delta := f.body, [binary.MaxVarintLen64]byte{}
	f.plain = f.plain[:0]
	for _, keep := range f.kept {
		size, n := binary.Varint(body) // Select has seen that it is whole
		rec := body[n : n+int(size)]
		body = body[n+int(size):]
		if !keep {
			continue
		}
		old, n := binary.Varint(rec[1:])
		if n <= 0 {
			return ErrMalformed
		}
		if !f.h.LogAppendTime() {
			old += f.h.FirstTimestamp - base
		}
		d := binary.AppendVarint(delta[:0], old)
		f.plain = binary.AppendVarint(f.plain, int64(1+len(d)+len(rec)-1-n))
		f.plain = append(append(f.plain, rec[0]), d...)
		f.plain = append(f.plain, rec[1+n:]...)
	}
	return nil
}

// Emptied returns a batch without records in the place of one with the header
// h: it keeps offsets, leader epoch, producer and sequence, and has no time
// (Kafka keeps the largest one, which no record has any more).
func Emptied(h Header) []byte {
	h.Attributes &^= attrCodec | attrDeleteHorizon
	h.FirstTimestamp, h.MaxTimestamp, h.NumRecords = -1, -1, 0
	h.Length = HeaderLen - lengthPrefix
	b := appendHeader(nil, h)
	setCRC(b)
	return b
}

// appendHeader appends a header; its CRC is that of h.
func appendHeader(dst []byte, h Header) []byte {
	be := binary.BigEndian
	dst = be.AppendUint64(dst, uint64(h.BaseOffset))
	dst = be.AppendUint32(dst, uint32(h.Length))
	dst = be.AppendUint32(dst, uint32(h.LeaderEpoch))
	dst = append(dst, byte(h.Magic))
	dst = be.AppendUint32(dst, h.CRC)
	dst = be.AppendUint16(dst, uint16(h.Attributes))
	dst = be.AppendUint32(dst, uint32(h.LastOffsetDelta))
	dst = be.AppendUint64(dst, uint64(h.FirstTimestamp))
	dst = be.AppendUint64(dst, uint64(h.MaxTimestamp))
	dst = be.AppendUint64(dst, uint64(h.ProducerID))
	dst = be.AppendUint16(dst, uint16(h.ProducerEpoch))
	dst = be.AppendUint32(dst, uint32(h.BaseSequence))
	return be.AppendUint32(dst, uint32(h.NumRecords))
}

// TimeOf returns the time in ms of a record of the batch.
func (h Header) TimeOf(r *Record) int64 { return h.timeOf(r.TimestampDelta) }

// OffsetOf returns the offset of a record of the batch.
func (h Header) OffsetOf(r *Record) kafka.Offset { return h.BaseOffset + kafka.Offset(r.OffsetDelta) }
