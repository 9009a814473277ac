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
	Diverging            *EpochEnd // from version 12; nil: not told
	Leader               *Leader   // from version 12; nil: not told
}

// EpochEnd is where an epoch ends at the leader (KIP-595).
type EpochEnd struct {
	Epoch kafka.LeaderEpoch
	End   kafka.Offset
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
	Endpoints     []Endpoint // from version 16: of the leaders told
}

// AppendTo appends the framed response to bufs: what lies around the records
// encoded into scratch, the records by reference. It returns both, grown;
// scratch can be used again once bufs is written. Nothing else is allocated.
func (r *FetchResponse) AppendTo(bufs net.Buffers, scratch []byte) (net.Buffers, []byte) {
	e := encoder{b: append(scratch[:0], 0, 0, 0, 0), flexible: r.Version >= 12}
	first, from, size := len(bufs), 0, 0
	e.int32(r.CorrelationID)
	e.tags()
	e.int32(r.ThrottleMs)
	if r.Version >= 7 {
		e.int16(int16(r.Err))
		e.int32(r.SessionID)
	}
	e.arrayLen(len(r.Topics))
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
			if n := e.fetchPartition(p, r.Version); n > 0 {
				// Should e.b grow and move later, these bytes stay as they are.
				bufs = append(bufs, e.b[from:len(e.b):len(e.b)])
				bufs = append(bufs, p.Records...)
				from, size = len(e.b), size+n
			}
			e.fetchTags(p, r.Version)
		}
		e.tags()
	}
	if r.Version >= 16 {
		e.endpoints(r.Endpoints)
	} else {
		e.tags()
	}
	bufs = append(bufs, e.b[from:])
	binary.BigEndian.PutUint32(bufs[first], uint32(len(e.b)-4+size))
	return bufs, e.b
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

func (e *encoder) fetchTags(p *FetchPartition, version int16) {
	if version < 12 || p.Diverging == nil && p.Leader == nil {
		e.tags()
		return
	}
	if p.Diverging != nil && p.Leader != nil {
		e.b = append(e.b, 2)
	} else {
		e.b = append(e.b, 1)
	}
	if p.Diverging != nil {
		e.tag(0, 4+8+1)
		e.int32(int32(p.Diverging.Epoch))
		e.int64(int64(p.Diverging.End))
		e.tags()
	}
	if p.Leader != nil {
		e.leader(1, p.Leader)
	}
}
