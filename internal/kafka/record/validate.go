package record

import (
	"encoding/binary"
	"errors"
	"fmt"
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

// maxReencode bounds what a batch may decompress to, in bytes, where the topic
// asks for another codec.
const maxReencode = 64 << 20

// ValidateProduce checks what a client sent for one partition: exactly one
// batch of format v2 that Kafka's ProduceRequest, UnifiedLog and LogValidator
// would take. It returns the batch to append, which is the client's own bytes
// unless the topic's compression or timestamp type changes it, or its header
// has another largest time than its records; and the time of append for
// LogAppendTime topics (-1 otherwise). Errors are *Invalid.
//
// Uncompressed records are walked. Compressed ones are decompressed only where the
// topic needs it (compaction's keys, another codec): their checksum holds,
// and what is inside is between producer and consumer.
func ValidateProduce(records []byte, r Rules) (batch []byte, h Header, appendTime int64, err error) {
	batch, h, err = oneBatch(records)
	if err != nil {
		return nil, h, -1, err
	}
	if err = checkHeader(batch, h, r); err != nil {
		return nil, h, -1, err
	}
	var plain []byte
	encode := !r.Compression.Producer && r.Compression.Codec != h.Codec()
	if encode {
		if plain, err = decompress(h.Codec(), batch[HeaderLen:], maxReencode); err != nil {
			return nil, h, -1, refused(err)
		}
	}
	maxMs, err := checkRecords(batch, plain, h, r)
	if err != nil {
		return nil, h, -1, err
	}
	if encode {
		if batch, err = recompress(batch, plain, r.Compression); err != nil {
			return nil, h, -1, refused(err)
		}
		if tooLarge(len(batch), r) {
			return nil, h, -1, &Invalid{Code: kafka.MessageTooLarge}
		}
	}
	appendTime = -1
	if r.LogAppendTime {
		appendTime = r.Now.UnixMilli()
		SetLogAppendTime(batch, appendTime)
	} else {
		setCreateTime(batch, maxMs)
	}
	return batch, readHeader(batch), appendTime, nil
}

// refused returns the answer for records that can't be read.
func refused(err error) *Invalid {
	if errors.Is(err, ErrTooLarge) {
		return &Invalid{Code: kafka.MessageTooLarge}
	}
	return &Invalid{Code: kafka.InvalidRecord, Reached: true}
}

func tooLarge(size int, r Rules) bool { return r.MaxMessageBytes > 0 && size > r.MaxMessageBytes }

// Of the oldest format, as far as Kafka's reader of runs looks at it: the bytes up
// to the magic, and the least length of a batch.
const (
	toMagic   = 17
	minLength = 14
)

// oneBatch demands exactly one batch of format v2, and cuts off a truncated
// one behind it, as Kafka does.
func oneBatch(records []byte) ([]byte, Header, error) {
	size, err := nextSize(records)
	switch {
	case err != nil:
		return nil, Header{}, err
	case size == 0, records[toMagic-1] != 2:
		return nil, Header{}, &Invalid{Code: kafka.InvalidRecord}
	case size < HeaderLen:
		return nil, Header{}, &Invalid{Code: kafka.CorruptMessage}
	}
	switch next, err := nextSize(records[size:]); {
	case err != nil:
		return nil, Header{}, err
	case next > 0:
		return nil, Header{}, &Invalid{Code: kafka.InvalidRecord}
	}
	return records[:size:size], readHeader(records), nil
}

// nextSize returns the size of the batch at the beginning of b, 0 for none
// that is whole.
func nextSize(b []byte) (int, error) {
	if len(b) < lengthPrefix {
		return 0, nil
	}
	length := int32(binary.BigEndian.Uint32(b[8:]))
	if length < minLength {
		return 0, corrupt("Record size %d is less than the minimum record overhead (%d)", length, minLength)
	}
	if len(b) < toMagic {
		return 0, nil
	}
	if magic := int8(b[toMagic-1]); magic < 0 || magic > 2 {
		return 0, corrupt("Invalid magic found in record: %d", magic)
	}
	if int64(length)+lengthPrefix > int64(len(b)) {
		return 0, nil
	}
	return int(length) + lengthPrefix, nil
}

func corrupt(format string, args ...any) *Invalid {
	return &Invalid{Code: kafka.CorruptMessage, Message: fmt.Sprintf(format, args...)}
}

// checkHeader is what can be said of one batch without its records, in the
// order in which Kafka says it.
func checkHeader(b []byte, h Header, r Rules) error {
	switch {
	case h.BaseOffset != 0:
		return &Invalid{Code: kafka.InvalidRecord, Reached: true}
	case tooLarge(len(b), r):
		return &Invalid{Code: kafka.MessageTooLarge}
	case VerifyCRC(b) != nil:
		return &Invalid{Code: kafka.CorruptMessage}
	case h.LastOffsetDelta < 0, h.NumRecords <= 0, h.LastOffsetDelta != h.NumRecords-1,
		h.Control(), h.Codec() > Zstd, int64(h.NumRecords) > maxRecords(h),
		h.ProducerID >= 0 && (h.BaseSequence < 0 || h.ProducerEpoch < 0),
		h.Transactional() && h.ProducerID < 0:
		return &Invalid{Code: kafka.InvalidRecord, Reached: true}
	}
	return nil
}

// minRecord is the size of the least record: length, attributes, two deltas,
// null key, null value, no headers.
const minRecord = 7

// maxRecords returns how many records a batch could hold at most.
func maxRecords(h Header) int64 {
	return h.Codec().maxExpansion() * int64(h.Size()-HeaderLen) / minRecord
}
