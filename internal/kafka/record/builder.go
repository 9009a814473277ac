package record

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

// Builder builds one batch. The zero Builder is not usable: make one with NewBuilder.
type Builder struct {
	codec         Codec
	first, max    int64
	count         int32
	records       []byte
	body          []byte
	ProducerID    int64 // -1: none
	ProducerEpoch int16
	BaseSequence  int32
	BaseOffset    kafka.Offset
	LeaderEpoch   kafka.LeaderEpoch
	Transactional bool
}

// NewBuilder returns a builder of a batch in a codec, without a producer.
func NewBuilder(codec Codec) *Builder {
	return &Builder{codec: codec, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, LeaderEpoch: -1, max: -1}
}

// Append adds a record with its time in milliseconds. A nil key or value is null.
func (b *Builder) Append(ts int64, key, value []byte, headers ...KV) {
	if b.count == 0 {
		b.first = ts
	}
	b.max = max(b.max, ts)
	r := append(b.body[:0], 0)
	r = binary.AppendVarint(r, ts-b.first)
	r = binary.AppendVarint(r, int64(b.count))
	r = appendBytes(r, key)
	r = appendBytes(r, value)
	r = binary.AppendVarint(r, int64(len(headers)))
	for _, h := range headers {
		r = binary.AppendVarint(r, int64(len(h.Key)))
		r = append(r, h.Key...)
		r = appendBytes(r, h.Value)
	}
	b.records = binary.AppendVarint(b.records, int64(len(r)))
	b.records = append(b.records, r...)
	b.body = r
	b.count++
}

func appendBytes(dst, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(v)))
	return append(dst, v...)
}

// Bytes returns the batch. It fails only where the codec does.
func (b *Builder) Bytes() ([]byte, error) {
	attrs := int16(b.codec)
	if b.Transactional {
		attrs |= attrTransactional
	}
	return b.encode(attrs)
}

func (b *Builder) encode(attrs int16) ([]byte, error) {
	be := binary.BigEndian
	out := make([]byte, HeaderLen, HeaderLen+len(b.records))
	be.PutUint64(out, uint64(b.BaseOffset))
	be.PutUint32(out[12:], uint32(b.LeaderEpoch))
	out[16] = 2
	be.PutUint16(out[21:], uint16(attrs))
	be.PutUint32(out[23:], uint32(max(b.count-1, 0)))
	be.PutUint64(out[27:], uint64(b.first))
	be.PutUint64(out[35:], uint64(b.max))
	be.PutUint64(out[43:], uint64(b.ProducerID))
	be.PutUint16(out[51:], uint16(b.ProducerEpoch))
	be.PutUint32(out[53:], uint32(b.BaseSequence))
	be.PutUint32(out[57:], uint32(b.count))
	out, err := compress(b.codec, DefaultLevel, out, b.records)
	if err != nil {
		return nil, fmt.Errorf("build batch: %w", err)
	}
	be.PutUint32(out[8:], uint32(len(out)-lengthPrefix))
	setCRC(out)
	return out, nil
}

// Marker returns a control batch that ends a producer's transaction (KIP-98):
// one record, its key version 0 and type (0 abort, 1 commit), its value
// version 0 and the coordinator's epoch.
func Marker(producerID int64, epoch int16, commit bool, coordinatorEpoch int32, at time.Time) ([]byte, error) {
	b := NewBuilder(None)
	b.ProducerID, b.ProducerEpoch = producerID, epoch
	key := make([]byte, 4)
	if commit {
		key[3] = 1
	}
	value := binary.BigEndian.AppendUint32(make([]byte, 2, 6), uint32(coordinatorEpoch))
	b.Append(at.UnixMilli(), key, value)
	return b.encode(attrTransactional | attrControl)
}

// MarkerType reads a control batch: 0 for an abort, 1 for a commit, and the
// coordinator's epoch.
func MarkerType(b []byte) (kind int16, coordinatorEpoch int32, err error) {
	for r, err := range Records(b, 1<<10) {
		if err != nil {
			return 0, 0, err
		}
		if len(r.Key) < 4 || len(r.Value) < 6 {
			return 0, 0, ErrMalformed
		}
		return int16(binary.BigEndian.Uint16(r.Key[2:])), int32(binary.BigEndian.Uint32(r.Value[2:])), nil
	}
	return 0, 0, ErrMalformed
}
