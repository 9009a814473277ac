// Package bundle is the one object format of the log: slices of partitions
// followed by a checksummed footer. A WAL object is a bundle of many small
// slices, a checkpoint one of many slices and partition states, a sealed
// segment a bundle of one large, compressed slice, a seal a bundle of none.
//
//	+--------+---------+---------+-- --+---------+--------+---------+
//	| header | slice 0 | slice 1 | ... | slice n | footer | trailer |
//	+--------+---------+---------+-- --+---------+--------+---------+
//
// The trailer has a fixed size and says where the footer begins, so one read
// of the object's tail usually brings all that describes it. The bytes of the slices of
// a WAL object or a checkpoint are whole record batches as they are served;
// those of a segment are seekable zstd frames of whole batches.
// docs/format/bundle.md draws it byte by byte. One writer, one reader.
package bundle

import "github.com/varvelog/varve/internal/kafka"

// Kind says what an object is for.
type Kind uint8

// The kinds of bundles.
const (
	KindWAL        Kind = 1
	KindSeal       Kind = 2 // ends a session's WAL
	KindCheckpoint Kind = 3
	KindSegment    Kind = 4
)

// Origin names the writer of an object: a session, and in a WAL object or a
// seal its sequence number. A seal carries the sealer's origin as well as the
// sealed one's key.
type Origin struct {
	Broker int32
	Epoch  int64    // session epoch
	Nonce  [16]byte // random, new for each session
	Seq    int64    // WAL sequence number; a checkpoint's or segment's own number otherwise
}

// Batch describes one record batch (v2) of a slice. Pos is from the
// beginning of the object, or, in a segment, from the beginning of the slice's
// uncompressed bytes.
type Batch struct {
	BaseOffset      kafka.Offset
	LastOffsetDelta int32
	Pos             int64
	Len             int32
	MaxTimestamp    int64 // milliseconds since the Unix epoch
	Attributes      int16
	ProducerID      int64 // -1: none
	ProducerEpoch   int16
	BaseSequence    int32 // -1: none
	LeaderEpoch     kafka.LeaderEpoch
	ControlType     int16 // control batches: 0 abort, 1 commit; else -1
	CoordEpoch      int32 // control batches: the transaction coordinator's epoch; else -1
}

// LastOffset returns the offset of the batch's last record.
func (b Batch) LastOffset() kafka.Offset { return b.BaseOffset + kafka.Offset(b.LastOffsetDelta) }

// LastSequence returns the sequence number of the last record, which wraps
// from 2^31-1 to 0, or -1 for a batch without one.
func (b Batch) LastSequence() int32 {
	if b.BaseSequence < 0 {
		return -1
	}
	return int32((int64(b.BaseSequence) + int64(b.LastOffsetDelta)) & 0x7fffffff)
}

// Slice is a run of batches of one partition that lie one behind the other.
type Slice struct {
	Slot    kafka.Slot
	TP      kafka.TopicPartition
	Pos     int64  // of the first byte in the object
	Len     int64  // bytes in the object
	Sum     uint32 // CRC-32C of the batches' heads (see headSum); 0 in a segment, whose frames have their own
	Batches []Batch
}

// Ref is a run of whole batches of one partition, one behind the other in an object.
type Ref struct {
	Key          string
	Pos, Len     int64 // bytes in the object
	Base, Last   kafka.Offset
	MaxTimestamp int64 // ms
}

// Ref returns a reference to a slice of batches in the object key.
func (s *Slice) Ref(key string) Ref {
	first, last := s.Batches[0], s.Batches[len(s.Batches)-1]
	r := Ref{Key: key, Pos: s.Pos, Len: s.Len, Base: first.BaseOffset, Last: last.LastOffset(), MaxTimestamp: first.MaxTimestamp}
	for _, b := range s.Batches {
		r.MaxTimestamp = max(r.MaxTimestamp, b.MaxTimestamp)
	}
	return r
}

// EpochStart is an entry of a partition's leader-epoch history (KIP-101).
type EpochStart struct {
	Epoch kafka.LeaderEpoch
	Start kafka.Offset // the first offset written in it
}

// ProducerBatch is one of the last five batches of a producer (KIP-98).
type ProducerBatch struct {
	FirstSeq, LastSeq int32
	BaseOffset        kafka.Offset
	Timestamp         int64 // the batch's max timestamp, ms
}

// Producer is the state of one producer id in a partition.
type Producer struct {
	ID             int64
	Epoch          int16
	Batches        []ProducerBatch // oldest first, at most 5
	LastTimestamp  int64           // ms, of the last batch; for expiry
	CoordEpoch     int32           // of the last marker; -1: none
	TxnFirstOffset kafka.Offset    // of its open transaction; -1: none
}

// AbortedTxn is a transaction that was aborted (KIP-98).
type AbortedTxn struct {
	ProducerID       int64
	FirstOffset      kafka.Offset
	LastOffset       kafka.Offset // of the abort marker
	LastStableOffset kafka.Offset // when it was written
}

// State is a partition's whole state at its next offset, as a checkpoint and
// the footer of a segment hold it: from State and the batches that follow, an
// owner is what the last one was.
type State struct {
	Slot       kafka.Slot
	TP         kafka.TopicPartition
	NextOffset kafka.Offset
	Epochs     []EpochStart // oldest first
	Producers  []Producer   // by id
	Aborted    []AbortedTxn // in a checkpoint: those that end in its hot slices; in a segment: that end in it
	SealedEnd  kafka.Offset // end (exclusive) of the newest sealed segment; where hot slices begin
	LastStable kafka.Offset // last stable offset
}

// Frame is one zstd frame of a segment: whole batches, decompressed on its own.
type Frame struct {
	BaseOffset kafka.Offset // first offset in it
	Pos        int64        // in the object
	Len        int32        // compressed bytes
	RawPos     int64        // in the slice's uncompressed bytes
	RawLen     int32        // uncompressed bytes
	MaxTime    int64        // largest timestamp in it, ms
	CRC        uint32       // CRC-32C of the compressed bytes
	Stored     bool         // not compressed: its batches already were
}
