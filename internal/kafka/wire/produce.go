package wire

import (
	"encoding/binary"

	"github.com/varvelog/varve/internal/kafka"
)

// RecordError is a refused record of a produce response (KIP-467).
type RecordError struct {
	Index   int32
	Message string // "": null
}

// ProducePartition is a partition of a produce response.
type ProducePartition struct {
	Partition      int32
	Err            kafka.ErrorCode
	BaseOffset     kafka.Offset
	LogAppendTime  int64
	LogStartOffset kafka.Offset
	Records        []RecordError
	Message        string  // "": null
	Leader         *Leader // from version 10; nil: not told
}

// ProduceTopic is a topic of a produce response.
type ProduceTopic struct {
	Name       string        // up to version 12
	ID         kafka.TopicID // from version 13
	Partitions []ProducePartition
}

// ProduceResponse is a response to Produce, versions 3 to 13.
type ProduceResponse struct {
	Version       int16
	CorrelationID int32
	ThrottleMs    int32
	Topics        []ProduceTopic
	Endpoints     []Endpoint // from version 10: of the leaders told
}

// AppendTo appends the framed response to dst.
func (r *ProduceResponse) AppendTo(dst []byte) []byte {
	begin := len(dst)
	e := encoder{b: append(dst, 0, 0, 0, 0), flexible: r.Version >= 9}
	e.int32(r.CorrelationID)
	e.tags()
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
			e.producePartition(&t.Partitions[j], r.Version)
		}
		e.tags()
	}
	e.int32(r.ThrottleMs)
	if r.Version >= 10 {
		e.endpoints(r.Endpoints)
	} else {
		e.tags()
	}
	binary.BigEndian.PutUint32(e.b[begin:], uint32(len(e.b)-begin-4))
	return e.b
}

func (e *encoder) producePartition(p *ProducePartition, version int16) {
	e.int32(p.Partition)
	e.int16(int16(p.Err))
	e.int64(int64(p.BaseOffset))
	e.int64(p.LogAppendTime)
	if version >= 5 {
		e.int64(int64(p.LogStartOffset))
	}
	if version >= 8 {
		e.arrayLen(len(p.Records))
		for _, r := range p.Records {
			e.int32(r.Index)
			e.nullable(r.Message)
			e.tags()
		}
		e.nullable(p.Message)
	}
	if version >= 10 && p.Leader != nil {
		e.b = append(e.b, 1)
		e.leader(0, p.Leader)
		return
	}
	e.tags()
}
