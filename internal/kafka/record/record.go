// Package record reads, checks, stamps and builds record batches of message
// format v2 (KIP-98), the unit in which records travel and are stored.
//
// A batch is handled as the bytes that it is. What a broker changes in place,
// base offset and leader epoch, lies outside the checksum:
//
//	 0 baseOffset int64 | 8 length int32 (of all that follows it)
//	12 partitionLeaderEpoch int32 | 16 magic int8 = 2 | 17 crc uint32 (CRC-32C of 21…)
//	21 attributes int16 | 23 lastOffsetDelta int32
//	27 firstTimestamp int64 | 35 maxTimestamp int64
//	43 producerId int64 | 51 producerEpoch int16 | 53 baseSequence int32
//	57 record count int32 | 61 records, compressed as attributes say
//
// attributes: bits 0–2 codec, 3 LogAppendTime, 4 transactional, 5 control,
// 6 has delete horizon.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"

	"github.com/varvelog/varve/internal/kafka"
)

// HeaderLen is the number of bytes before the records of a batch.
const HeaderLen = 61

// lengthPrefix is what a batch's length field does not count.
const lengthPrefix = 12

// Errors of the readers. A decoder never allocates what a length field says:
// it checks against the bytes that are there, or a limit.
var (
	ErrTruncated = errors.New("record: truncated batch")
	ErrMagic     = errors.New("record: not message format v2")
	ErrLength    = errors.New("record: impossible batch length")
	ErrCRC       = errors.New("record: checksum does not match")
	ErrMalformed = errors.New("record: malformed record")
	ErrTooLarge  = errors.New("record: larger than the limit when decompressed")
	ErrCodec     = errors.New("record: unknown compression codec")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The bits of a batch's attributes above the codec.
const (
	attrCodec         = 0x07
	attrLogAppendTime = 1 << 3
	attrTransactional = 1 << 4
	attrControl       = 1 << 5
)

// Header is a batch's header.
type Header struct {
	BaseOffset      kafka.Offset
	Length          int32 // bytes behind the length field
	LeaderEpoch     kafka.LeaderEpoch
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	FirstTimestamp  int64 // ms since the Unix epoch
	MaxTimestamp    int64
	ProducerID      int64 // -1: none
	ProducerEpoch   int16
	BaseSequence    int32 // -1: none
	NumRecords      int32
}

// Size returns the batch's whole length in bytes.
func (h Header) Size() int { return int(h.Length) + lengthPrefix }

// Codec returns the compression codec.
func (h Header) Codec() Codec { return Codec(h.Attributes & attrCodec) }

// Transactional tells whether the batch is part of a transaction (KIP-98).
func (h Header) Transactional() bool { return h.Attributes&attrTransactional != 0 }

// Control tells whether the batch is a control batch: a transaction marker.
func (h Header) Control() bool { return h.Attributes&attrControl != 0 }

// LogAppendTime tells whether all records have MaxTimestamp as their time (KIP-32).
func (h Header) LogAppendTime() bool { return h.Attributes&attrLogAppendTime != 0 }

// LastOffset returns the offset of the last record.
func (h Header) LastOffset() kafka.Offset { return h.BaseOffset + kafka.Offset(h.LastOffsetDelta) }

// ParseHeader reads the header of the batch at the beginning of b. It checks
// the magic and that a batch of that length can be, not the checksum, and not
// that all of the batch is there.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, ErrTruncated
	}
	h := readHeader(b)
	if h.Magic != 2 {
		return h, fmt.Errorf("%w: magic %d", ErrMagic, h.Magic)
	}
	if h.Length < HeaderLen-lengthPrefix || h.LastOffsetDelta < 0 || h.NumRecords < 0 {
		return h, ErrLength
	}
	return h, nil
}

// readHeader reads the header's fields as they are; b has HeaderLen bytes.
func readHeader(b []byte) Header {
	be := binary.BigEndian
	return Header{
		BaseOffset:      kafka.Offset(be.Uint64(b)),
		Length:          int32(be.Uint32(b[8:])),
		LeaderEpoch:     kafka.LeaderEpoch(be.Uint32(b[12:])),
		Magic:           int8(b[16]),
		CRC:             be.Uint32(b[17:]),
		Attributes:      int16(be.Uint16(b[21:])),
		LastOffsetDelta: int32(be.Uint32(b[23:])),
		FirstTimestamp:  int64(be.Uint64(b[27:])),
		MaxTimestamp:    int64(be.Uint64(b[35:])),
		ProducerID:      int64(be.Uint64(b[43:])),
		ProducerEpoch:   int16(be.Uint16(b[51:])),
		BaseSequence:    int32(be.Uint32(b[53:])),
		NumRecords:      int32(be.Uint32(b[57:])),
	}
}

// VerifyCRC checks the checksum of one whole batch.
func VerifyCRC(b []byte) error {
	if len(b) < HeaderLen {
		return ErrTruncated
	}
	if crc32.Checksum(b[21:], castagnoli) != binary.BigEndian.Uint32(b[17:]) {
		return ErrCRC
	}
	return nil
}

// Stamp writes base offset and leader epoch into a batch, in place. Both lie
// outside the checksum.
func Stamp(b []byte, base kafka.Offset, epoch kafka.LeaderEpoch) {
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[12:], uint32(epoch))
}

// SetLogAppendTime makes ms the time of all records of a batch, in place, and
// renews the checksum, as Kafka does for message.timestamp.type=LogAppendTime.
func SetLogAppendTime(b []byte, ms int64) {
	setTimes(b, binary.BigEndian.Uint16(b[21:])|attrLogAppendTime, ms)
}

// setCreateTime makes ms the largest time of a batch whose records have their
// own, in place. The checksum is renewed only where that changes something.
func setCreateTime(b []byte, ms int64) {
	setTimes(b, binary.BigEndian.Uint16(b[21:])&^attrLogAppendTime, ms)
}

func setTimes(b []byte, attrs uint16, maxMs int64) {
	be := binary.BigEndian
	if be.Uint16(b[21:]) == attrs && be.Uint64(b[35:]) == uint64(maxMs) {
		return
	}
	be.PutUint16(b[21:], attrs)
	be.PutUint64(b[35:], uint64(maxMs))
	setCRC(b)
}

func setCRC(b []byte) { binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli)) }

// Split yields the whole batches of a run, one behind the other, by reference.
// A truncated or malformed rest is yielded as an error, last.
func Split(b []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for len(b) > 0 {
			h, err := ParseHeader(b)
			if err == nil && h.Size() > len(b) {
				err = ErrTruncated
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(b[:h.Size():h.Size()], nil) {
				return
			}
			b = b[h.Size():]
		}
	}
}
