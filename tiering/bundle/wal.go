package bundle

import "github.com/varvelog/varve/internal/kafka"

// SliceData is what one partition contributes to a WAL object: Data[i] holds
// the bytes of Batches[i], whole and as they will be served. Pos and Len of
// the batches need not be set.
type SliceData struct {
	Slot    kafka.Slot
	TP      kafka.TopicPartition
	Batches []Batch
	Data    [][]byte
}

// WALBuffers builds a WAL object around the batches' own bytes.
func WALBuffers(o Origin, slices []SliceData) (bufs [][]byte, placed []Slice, sum uint32) {
	return nil, nil, 0
}

// SealBuffers builds the seal that ends target's WAL at target.Seq.
func SealBuffers(target, sealer Origin) (bufs [][]byte, sum uint32) { return nil, 0 }
