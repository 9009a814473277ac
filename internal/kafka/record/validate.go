package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

// Compression says in which codec batches are stored: the producer's, or one
// of the broker's (compression.type).
type Compression struct {
	Producer bool // keep the producer's codec
	Codec    Codec
	Level    int // DefaultLevel, or the codec's own scale
}

// Rules are what a topic demands of a batch.
type Rules struct {
	Topic           string // named in messages
	Partition       int32
	Compacted       bool // every record needs a key
	MaxMessageBytes int  // max.message.bytes: of a whole batch
	LogAppendTime   bool // message.timestamp.type
	BeforeMaxMs     int64
	AfterMaxMs      int64
	Compression     Compression
	Now             time.Time
}

// RecordError tells which record of a batch was refused (KIP-467).
type RecordError struct {
	Index   int32
	Message string
}

// Invalid is a refused batch, as the produce response tells it.
type Invalid struct {
	Code    kafka.ErrorCode
	Message string // "": none
	Records []RecordError
	Reached bool // refused by the partition's log: Kafka then answers with the log's start offset
}

// Error returns the code and message.
func (e *Invalid) Error() string {
	if e.Message == "" {
		return e.Code.Error()
	}
	return e.Code.Error() + ": " + e.Message
}

// Unwrap returns the code.
func (e *Invalid) Unwrap() error { return e.Code }

// ValidateProduce checks what a client sent for one partition: exactly one
// batch of format v2 that Kafka's ProduceRequest, UnifiedLog and LogValidator
// would take. It returns the batch to append, which is the client's own bytes
// unless the topic's compression or timestamp type changes it, and the time of
// append for LogAppendTime topics (-1 otherwise). Errors are *Invalid.
//
// Uncompressed records are walked. Compressed ones are decompressed only where the
// topic needs it (compaction's keys, another codec): their checksum holds,
// and what is inside is between producer and consumer.
func ValidateProduce(records []byte, r Rules) (batch []byte, h Header, appendTime int64, err error) {
	if h, err = checkShape(records); err != nil {
		return nil, h, -1, err
	}
	switch {
	case r.MaxMessageBytes > 0 && h.Size() > r.MaxMessageBytes:
		return nil, h, -1, &Invalid{Code: kafka.MessageTooLarge}
	case VerifyCRC(records) != nil:
		return nil, h, -1, &Invalid{Code: kafka.CorruptMessage}
	case h.BaseOffset != 0, h.Control(), h.NumRecords == 0, h.LastOffsetDelta != h.NumRecords-1, h.Codec() > Zstd:
		return nil, h, -1, &Invalid{Code: kafka.InvalidRecord, Reached: true}
	case h.Transactional() && h.ProducerID < 0, h.ProducerID >= 0 && (h.BaseSequence < 0 || h.ProducerEpoch < 0):
		return nil, h, -1, &Invalid{Code: kafka.InvalidRecord, Reached: true}
	}
	if err = checkRecords(records, h, r); err != nil {
		return nil, h, -1, err
	}
	batch = records
	if !r.Compression.Producer && r.Compression.Codec != h.Codec() {
		if batch, err = Recompress(records, r.Compression); err != nil {
			return nil, h, -1, &Invalid{Code: kafka.InvalidRecord, Reached: true}
		}
	}
	appendTime = -1
	if r.LogAppendTime {
		appendTime = r.Now.UnixMilli()
		SetLogAppendTime(batch, appendTime)
	}
	if h, err = ParseHeader(batch); err != nil {
		return nil, h, -1, fmt.Errorf("validate produce: own encoding: %w", err)
	}
	return batch, h, appendTime, nil
}

// checkShape demands exactly one whole batch of format v2.
func checkShape(records []byte) (Header, error) {
	if len(records) >= 17 {
		if magic := int8(records[16]); magic < 0 || magic > 2 {
			return Header{}, &Invalid{Code: kafka.CorruptMessage, Message: fmt.Sprintf("Invalid magic found in record: %d", magic)}
		}
	}
	h, err := ParseHeader(records)
	if err != nil || h.Size() != len(records) {
		return h, &Invalid{Code: kafka.InvalidRecord}
	}
	return h, nil
}

// shown is how many refused records the message names, as in Kafka.
const shown = 3

// checkRecords looks at the records, or where that would need decompression
// that nothing else asks for, at the header's times.
func checkRecords(b []byte, h Header, r Rules) error {
	low, high := timeBounds(r)
	if h.Codec() != None && !r.Compacted {
		if !r.LogAppendTime && (h.MaxTimestamp > high || h.FirstTimestamp < low && h.FirstTimestamp >= 0) {
			return badTime([]RecordError{{0, timeMessage(h.MaxTimestamp, 0, low, high)}})
		}
		return nil
	}
	body, err := decompress(h.Codec(), b[HeaderLen:], MaxDecompressed)
	if err != nil {
		return &Invalid{Code: kafka.InvalidRecord, Reached: true}
	}
	var keyless, untimely []RecordError
	for i := range h.NumRecords {
		rec, n, err := skimRecord(body)
		if err != nil || rec.offsetDelta != int64(i) {
			return &Invalid{Code: kafka.InvalidRecord, Reached: true}
		}
		body = body[n:]
		if r.Compacted && rec.nullKey {
			keyless = append(keyless, RecordError{i, fmt.Sprintf("Compacted topic cannot accept message without key in topic partition %s-%d", r.Topic, r.Partition)})
		}
		if at := h.FirstTimestamp + rec.timestampDelta; !r.LogAppendTime && at >= 0 && (at < low || at > high) {
			untimely = append(untimely, RecordError{i, timeMessage(at, int64(i), low, high)})
		}
	}
	switch {
	case len(body) > 0:
		return &Invalid{Code: kafka.InvalidRecord, Reached: true}
	case len(keyless) > 0:
		return &Invalid{Code: kafka.InvalidRecord, Message: rejected(keyless), Records: keyless, Reached: true}
	case len(untimely) > 0:
		return badTime(untimely)
	}
	return nil
}

func timeBounds(r Rules) (low, high int64) {
	now := r.Now.UnixMilli()
	low, high = now-r.BeforeMaxMs, now+r.AfterMaxMs
	if r.BeforeMaxMs < 0 || r.BeforeMaxMs > now {
		low = 0
	}
	if r.AfterMaxMs < 0 || high < now {
		high = 1<<63 - 1
	}
	return low, high
}

func timeMessage(ts, off, low, high int64) string {
	return fmt.Sprintf("Timestamp %d of message with offset %d is out of range. The timestamp should be within [%d, %d]", ts, off, low, high)
}

func badTime(errs []RecordError) error {
	return &Invalid{Code: kafka.InvalidTimestamp, Message: "One or more records have been rejected due to invalid timestamp", Records: errs, Reached: true}
}

func rejected(errs []RecordError) string {
	var list []string
	for _, e := range errs[:min(len(errs), shown)] {
		list = append(list, fmt.Sprintf("RecordError(batchIndex=%d, message='%s')", e.Index, e.Message))
	}
	return fmt.Sprintf("One or more records have been rejected due to %d record errors in total, and only showing the first three errors at most: [%s]", len(errs), strings.Join(list, ", "))
}

// skim is what validation looks at in a record.
type skim struct {
	timestampDelta int64
	offsetDelta    int64
	nullKey        bool
}

// skimRecord checks a record's structure without building it.
func skimRecord(b []byte) (skim, int, error) {
	size, n := binary.Varint(b)
	if n <= 0 || size < 1 || size > int64(len(b)-n) {
		return skim{}, 0, ErrMalformed
	}
	total := n + int(size)
	s := scanner{b: b[n+1 : total]}
	r := skim{timestampDelta: s.varint(), offsetDelta: s.varint()}
	r.nullKey = s.bytes() == nil
	s.bytes()
	count := s.varint()
	if s.bad || count < 0 || count > int64(len(s.b)) {
		return skim{}, 0, ErrMalformed
	}
	for range count {
		key := s.bytes()
		s.bytes()
		if s.bad || key == nil {
			return skim{}, 0, ErrMalformed
		}
	}
	if s.bad || len(s.b) > 0 {
		return skim{}, 0, ErrMalformed
	}
	return r, total, nil
}

// Recompress returns a batch with its records in another codec, and all else
// as it was.
func Recompress(b []byte, c Compression) ([]byte, error) {
	h, body, err := open(b, MaxDecompressed)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, HeaderLen+len(body)/2), b[:HeaderLen]...)
	if out, err = compress(c.Codec, c.Level, out, body); err != nil {
		return nil, err
	}
	if len(out)-lengthPrefix > 1<<31-1 {
		return nil, errors.New("recompress: batch over 2 GiB")
	}
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-lengthPrefix))
	binary.BigEndian.PutUint16(out[21:], uint16(h.Attributes&^attrCodec|int16(c.Codec)))
	setCRC(out)
	return out, nil
}
