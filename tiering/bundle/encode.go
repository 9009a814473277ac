package bundle

import (
	"encoding/binary"

	"github.com/varvelog/varve/internal/kafka"
)

// The footer after the copy of the header, u a uvarint, z a zigzag varint,
// both as in encoding/binary; differences are to the entry before, in the
// slice or list at hand.
//
//	seal        sealer's origin: broker 4, epoch 8, seq 8, nonce 16
//	WAL         slices
//	checkpoint  slices, states
//	segment     slice (without batches), u base, u end-base, u raw size, u records,
//	            z first timestamp, z max timestamp, frames, state
//
//	slices  u count, then each: u slot, topic id 16, u partition, z position-end of the
//	        slice before, u length, sum 4, u count of batches, batches
//	batch   flags 1: 1 producer, 2 control, 4 attributes, 8 other leader epoch, 16 other offset
//	        u length, u last offset delta, z max timestamp-previous
//	        [attributes 2] [z leader epoch-previous] [z base offset-expected]
//	        [z producer id-previous, z epoch-previous, z base sequence-expected]
//	        [z control type, z coordinator epoch]
//	frames  u count, then each: u base offset-previous, u raw length<<1|stored, u length
//	        (only if not stored), z max time-previous, CRC 4
//	state   u slot, topic id 16, u partition, u next offset, z sealed end, z last stable,
//	        epochs: u count, each u epoch-previous, u start-previous
//	        producers: u count, each z id-previous, z epoch, z last timestamp, z coordinator
//	        epoch, z first offset of its transaction, batches: 1 count, each z first
//	        sequence, z last sequence, z base offset-previous, z timestamp-previous
//	        aborted: u count, each z producer id, z first offset, z last-first, z stable-first
//	states  u count, then each a state
const (
	flagProducer   = 1
	flagControl    = 2
	flagAttributes = 4
	flagEpoch      = 8
	flagOffset     = 16
	flagsKnown     = 31
)

func u(b []byte, v int64) []byte { return binary.AppendUvarint(b, uint64(v)) }
func z(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

// batchRun is what the next batch of a slice is compared with.
type batchRun struct {
	offset   kafka.Offset // expected base offset
	epoch    kafka.LeaderEpoch
	time     int64
	producer int64
	pepoch   int16
	sequence int32 // expected
}

func (r *batchRun) next(m *Batch) {
	r.offset, r.epoch, r.time = m.LastOffset()+1, m.LeaderEpoch, m.MaxTimestamp
	if m.ProducerID >= 0 {
		r.producer, r.pepoch, r.sequence = m.ProducerID, m.ProducerEpoch, m.LastSequence()+1
	}
}

func (r *batchRun) append(b []byte, m *Batch) []byte {
	var flags byte
	if m.ProducerID >= 0 {
		flags |= flagProducer
	}
	if m.ControlType >= 0 || m.CoordEpoch >= 0 {
		flags |= flagControl
	}
	if m.Attributes != 0 {
		flags |= flagAttributes
	}
	if m.LeaderEpoch != r.epoch {
		flags |= flagEpoch
	}
	if m.BaseOffset != r.offset {
		flags |= flagOffset
	}
	b = append(b, flags)
	b = u(b, int64(m.Len))
	b = u(b, int64(m.LastOffsetDelta))
	b = z(b, m.MaxTimestamp-r.time)
	if flags&flagAttributes != 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(m.Attributes))
	}
	if flags&flagEpoch != 0 {
		b = z(b, int64(m.LeaderEpoch)-int64(r.epoch))
	}
	if flags&flagOffset != 0 {
		b = z(b, int64(m.BaseOffset-r.offset))
	}
	if flags&flagProducer != 0 {
		b = z(b, m.ProducerID-r.producer)
		b = z(b, int64(m.ProducerEpoch)-int64(r.pepoch))
		b = z(b, int64(m.BaseSequence)-int64(r.sequence))
	}
	if flags&flagControl != 0 {
		b = z(b, int64(m.ControlType))
		b = z(b, int64(m.CoordEpoch))
	}
	r.next(m)
	return b
}

func appendTP(b []byte, slot kafka.Slot, tp kafka.TopicPartition) []byte {
	b = u(b, int64(slot))
	b = append(b, tp.Topic[:]...)
	return u(b, int64(tp.Partition))
}

func appendSlices(b []byte, slices []Slice) []byte {
	b = u(b, int64(len(slices)))
	end := int64(HeaderLen)
	for i := range slices {
		s := &slices[i]
		b = appendTP(b, s.Slot, s.TP)
		b = z(b, s.Pos-end)
		b = u(b, s.Len)
		b = binary.BigEndian.AppendUint32(b, s.Sum)
		b = u(b, int64(len(s.Batches)))
		var run batchRun
		for j := range s.Batches {
			b = run.append(b, &s.Batches[j])
		}
		end = s.Pos + s.Len
	}
	return b
}

func appendFrames(b []byte, base kafka.Offset, frames []Frame) []byte {
	b = u(b, int64(len(frames)))
	var time int64
	for i := range frames {
		f := &frames[i]
		b = u(b, int64(f.BaseOffset-base))
		raw := int64(f.RawLen) << 1
		if f.Stored {
			b = u(b, raw|1)
		} else {
			b = u(b, raw)
			b = u(b, int64(f.Len))
		}
		b = z(b, f.MaxTime-time)
		b = binary.BigEndian.AppendUint32(b, f.CRC)
		base, time = f.BaseOffset, f.MaxTime
	}
	return b
}

func appendStates(b []byte, states []State) []byte {
	b = u(b, int64(len(states)))
	for i := range states {
		b = appendState(b, &states[i])
	}
	return b
}

func appendState(b []byte, st *State) []byte {
	b = appendTP(b, st.Slot, st.TP)
	b = u(b, int64(st.NextOffset))
	b = z(b, int64(st.SealedEnd))
	b = z(b, int64(st.LastStable))
	b = u(b, int64(len(st.Epochs)))
	var last EpochStart
	for _, e := range st.Epochs {
		b = u(b, int64(e.Epoch-last.Epoch))
		b = u(b, int64(e.Start-last.Start))
		last = e
	}
	b = u(b, int64(len(st.Producers)))
	var id int64
	for i := range st.Producers {
		b = appendProducer(b, &st.Producers[i], id)
		id = st.Producers[i].ID
	}
	b = u(b, int64(len(st.Aborted)))
	for _, a := range st.Aborted {
		b = z(b, a.ProducerID)
		b = z(b, int64(a.FirstOffset))
		b = z(b, int64(a.LastOffset-a.FirstOffset))
		b = z(b, int64(a.LastStableOffset-a.FirstOffset))
	}
	return b
}

func appendProducer(b []byte, p *Producer, lastID int64) []byte {
	b = z(b, p.ID-lastID)
	b = z(b, int64(p.Epoch))
	b = z(b, p.LastTimestamp)
	b = z(b, int64(p.CoordEpoch))
	b = z(b, int64(p.TxnFirstOffset))
	batches := p.Batches[max(0, len(p.Batches)-maxPerProd):]
	b = append(b, byte(len(batches)))
	var last ProducerBatch
	for _, pb := range batches {
		b = z(b, int64(pb.FirstSeq))
		b = z(b, int64(pb.LastSeq))
		b = z(b, int64(pb.BaseOffset-last.BaseOffset))
		b = z(b, pb.Timestamp-last.Timestamp)
		last = pb
	}
	return b
}
