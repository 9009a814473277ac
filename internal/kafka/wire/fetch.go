package wire

import (
	"encoding/binary"
	"net"

	"github.com/varvelog/varve/internal/kafka"
)

// Aborted is an aborted transaction of a fetch response.
type Aborted struct {
	ProducerID  int64
	FirstOffset kafka.Offset
}

// FetchPartition is a partition of a fetch response.
type FetchPartition struct {
	Partition            int32
	Err                  kafka.ErrorCode
	HighWatermark        kafka.Offset
	LastStableOffset     kafka.Offset
	LogStartOffset       kafka.Offset
	Aborted              []Aborted // nil: null
	PreferredReadReplica int32     // -1: none
	Records              [][]byte  // whole batches, in pieces
}

// FetchTopic is a topic of a fetch response.
type FetchTopic struct {
	Name       string        // up to version 12
	ID         kafka.TopicID // from version 13
	Partitions []FetchPartition
}

// FetchResponse is a response to Fetch, versions 4 to 18.
type FetchResponse struct {
	Version       int16
	CorrelationID int32
	ThrottleMs    int32
	Err           kafka.ErrorCode // from version 7
	SessionID     int32           // from version 7
	Topics        []FetchTopic
}

// cut is where record pieces go in between the encoded bytes.
type cut struct {
	at      int
	records [][]byte
}

// AppendTo appends the framed response to bufs: what lies around the records
// encoded into scratch, the records by reference. It returns both, grown;
// scratch can be used again once bufs is written.
func (r *FetchResponse) AppendTo(bufs net.Buffers, scratch []byte) (net.Buffers, []byte) {
	e := encoder{b: scratch[:0], flexible: r.Version >= 12}
	e.b = append(e.b, 0, 0, 0, 0)
	e.int32(r.CorrelationID)
	e.tags()
	e.int32(r.ThrottleMs)
	if r.Version >= 7 {
		e.int16(int16(r.Err))
		e.int32(r.SessionID)
	}
	e.arrayLen(len(r.Topics))
	var cuts []cut
	var recordBytes int
	for i := range r.Topics {
		t := &r.Topics[i]
		if r.Version >= 13 {
			e.b = append(e.b, t.ID[:]...)
		} else {
			e.string(t.Name)
		}
		e.arrayLen(len(t.Partitions))
		for j := range t.Partitions {
			p := &t.Partitions[j]
			n := e.fetchPartition(p, r.Version)
			if recordBytes += n; n > 0 {
				cuts = append(cuts, cut{len(e.b), p.Records})
			}
			e.tags()
		}
		e.tags()
	}
	e.tags()
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4+recordBytes))
	from := 0
	for _, c := range cuts {
		bufs = append(bufs, e.b[from:c.at:c.at])
		bufs = append(bufs, c.records...)
		from = c.at
	}
	return append(bufs, e.b[from:]), e.b
}

// fetchPartition encodes a partition up to its records' length, which it returns.
func (e *encoder) fetchPartition(p *FetchPartition, version int16) int {
	e.int32(p.Partition)
	e.int16(int16(p.Err))
	e.int64(int64(p.HighWatermark))
	e.int64(int64(p.LastStableOffset))
	if version >= 5 {
		e.int64(int64(p.LogStartOffset))
	}
	if p.Aborted == nil {
		e.nullArray()
	} else {
		e.arrayLen(len(p.Aborted))
		for _, a := range p.Aborted {
			e.int64(a.ProducerID)
			e.int64(int64(a.FirstOffset))
			e.tags()
		}
	}
	if version >= 11 {
		e.int32(p.PreferredReadReplica)
	}
	n := 0
	for _, piece := range p.Records {
		n += len(piece)
	}
	e.arrayLen(n) // bytes are written as an array of bytes is
	return n
}
