package bundle

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/varvelog/varve/internal/kafka"
)

// The head of a record batch v2, big-endian (Kafka's DefaultRecordBatch):
//
//	 0 base offset 8       16 magic 1              27 first timestamp 8   51 producer epoch 2
//	 8 batch length 4      17 CRC-32C 4 of 21…     35 max timestamp 8     53 base sequence 4
//	12 leader epoch 4      21 attributes 2         43 producer id 8       57 count of records 4
//	                       23 last offset delta 4                         61 records
const (
	attrCodec         = 0x07
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

func headOffset(b []byte) kafka.Offset { return kafka.Offset(binary.BigEndian.Uint64(b)) }
func headLen(b []byte) int64           { return int64(int32(binary.BigEndian.Uint32(b[8:]))) + 12 }
func headRecords(b []byte) int64       { return int64(int32(binary.BigEndian.Uint32(b[57:]))) }

// headFirstTimestamp returns a batch's base timestamp, which is its first
// record's; its largest one where compaction has put the delete horizon there
// (KIP-534).
func headFirstTimestamp(b []byte, m Batch) int64 {
	if m.Attributes&attrDeleteHorizon != 0 {
		return m.MaxTimestamp
	}
	return int64(binary.BigEndian.Uint64(b[27:]))
}

// Describe reads what a footer says about a batch from the batch itself (Pos
// stays 0). It checks its length and format, not its CRC.
func Describe(b []byte) (Batch, error) {
	if len(b) < minBatch || b[16] != 2 || headLen(b) != int64(len(b)) {
		return Batch{}, corrupt("record batch of %d bytes", len(b))
	}
	m := Batch{
		BaseOffset:      headOffset(b),
		LastOffsetDelta: int32(binary.BigEndian.Uint32(b[23:])),
		Len:             int32(len(b)),
		MaxTimestamp:    int64(binary.BigEndian.Uint64(b[35:])),
		Attributes:      int16(binary.BigEndian.Uint16(b[21:])),
		ProducerID:      int64(binary.BigEndian.Uint64(b[43:])),
		ProducerEpoch:   int16(binary.BigEndian.Uint16(b[51:])),
		BaseSequence:    int32(binary.BigEndian.Uint32(b[53:])),
		LeaderEpoch:     kafka.LeaderEpoch(binary.BigEndian.Uint32(b[12:])),
		ControlType:     -1,
		CoordEpoch:      -1,
	}
	if m.LastOffsetDelta < 0 || m.BaseOffset < 0 || m.BaseOffset+kafka.Offset(m.LastOffsetDelta) < 0 {
		return Batch{}, corrupt("record batch at offset %d + %d", m.BaseOffset, m.LastOffsetDelta)
	}
	if m.ProducerID < 0 {
		m.ProducerID, m.ProducerEpoch, m.BaseSequence = -1, -1, -1
	}
	if m.Attributes&attrControl != 0 {
		m.ControlType, m.CoordEpoch = controlRecord(b[minBatch:])
	}
	return m, nil
}

// controlRecord reads the one record of a control batch: its key is version 2
// and type 2, a marker's value version 2 and coordinator epoch 4 (KIP-98).
func controlRecord(b []byte) (typ int16, coordEpoch int32) {
	next := func() (v int64) {
		v, n := binary.Varint(b)
		b = b[max(n, 0):]
		return v
	}
	field := func() []byte {
		n := next()
		if n < 0 || n > int64(len(b)) {
			return nil
		}
		f := b[:n]
		b = b[n:]
		return f
	}
	next() // length
	b = b[min(1, len(b)):]
	next() // timestamp delta
	next() // offset delta
	typ, coordEpoch = -1, -1
	if key := field(); len(key) >= 4 {
		typ = int16(binary.BigEndian.Uint16(key[2:]))
	}
	if value := field(); len(value) >= 6 {
		coordEpoch = int32(binary.BigEndian.Uint32(value[2:]))
	}
	return typ, coordEpoch
}

// checkBatch compares a batch with what the footer says about it, and checks its CRC.
func checkBatch(b []byte, want Batch) error {
	got, err := Describe(b)
	if err != nil {
		return err
	}
	got.Pos = want.Pos
	if got != want {
		return corrupt("batch at offset %d is not what the footer says", want.BaseOffset)
	}
	return checkCRC(b)
}

func checkCRC(b []byte) error {
	if binary.BigEndian.Uint32(b[17:]) != crc32.Checksum(b[21:], castagnoli) {
		return corrupt("checksum of the batch at offset %d", headOffset(b))
	}
	return nil
}
