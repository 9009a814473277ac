package recovery

import (
	"cmp"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

const (
	window = 5 // batches of a producer that a duplicate is found among (KIP-98)
	// MaxProducers is how many producers a partition remembers.
	MaxProducers = 1 << 16
)

// Fold takes the batch at the state's next offset into the state: next offset,
// epochs, producers, transactions and last stable offset. It is the only
// function that does, for what is appended, for what became durable and for
// what recovery finds in footers; it checks nothing and reads no clock.
func Fold(st *bundle.State, b bundle.Batch) {
	open := st.LastStable < st.NextOffset // a transaction is
	AssignEpoch(st, b.LeaderEpoch, b.BaseOffset)
	st.NextOffset = b.LastOffset() + 1
	switch {
	case b.ProducerID < 0:
	case b.ControlType >= 0:
		if first := foldMarker(st, b); first >= 0 {
			endTxn(st, b, first)
			return
		}
	default:
		if foldData(st, b) && !open {
			st.LastStable = b.BaseOffset
			return
		}
	}
	if !open {
		st.LastStable = st.NextOffset
	}
}

// AssignEpoch enters the first offset of a new leader epoch; an epoch in which
// nothing was written gives way to the next (KIP-101).
func AssignEpoch(st *bundle.State, e kafka.LeaderEpoch, start kafka.Offset) {
	if n := len(st.Epochs); n > 0 {
		last := &st.Epochs[n-1]
		if last.Epoch >= e {
			return
		}
		if last.Start == start {
			last.Epoch = e
			return
		}
	}
	st.Epochs = append(st.Epochs, bundle.EpochStart{Epoch: e, Start: start})
}

// foldData enters a data batch of an idempotent producer and tells whether it
// begins a transaction.
func foldData(st *bundle.State, b bundle.Batch) bool {
	p := addProducer(st, b.ProducerID, b.ProducerEpoch)
	if len(p.Batches) == window {
		p.Batches = p.Batches[:copy(p.Batches, p.Batches[1:])]
	}
	if n := len(p.Batches); n == cap(p.Batches) { // not the room of five for those that append once, of which there may be many
		p.Batches = append(make([]bundle.ProducerBatch, 0, min(max(1, 2*n), window)), p.Batches...)
	}
	p.Batches = append(p.Batches, bundle.ProducerBatch{
		FirstSeq:   b.BaseSequence,
		LastSeq:    b.LastSequence(),
		BaseOffset: b.BaseOffset,
		Timestamp:  b.MaxTimestamp,
	})
	p.LastTimestamp = b.MaxTimestamp
	if !transactional(b) || p.TxnFirstOffset >= 0 {
		return false
	}
	p.TxnFirstOffset = b.BaseOffset
	return true
}

// foldMarker enters a transaction marker and returns the first offset of the
// transaction that it ends, or -1 if none was open.
func foldMarker(st *bundle.State, b bundle.Batch) (first kafka.Offset) {
	p := addProducer(st, b.ProducerID, b.ProducerEpoch)
	first, p.TxnFirstOffset = p.TxnFirstOffset, -1
	p.CoordEpoch = b.CoordEpoch
	p.LastTimestamp = b.MaxTimestamp
	return first
}

// endTxn moves the last stable offset after a transaction ended, and enters
// the transaction if it was aborted.
func endTxn(st *bundle.State, b bundle.Batch, first kafka.Offset) {
	if first <= st.LastStable {
		st.LastStable = st.NextOffset
		for i := range st.Producers {
			if f := st.Producers[i].TxnFirstOffset; f >= 0 {
				st.LastStable = min(st.LastStable, f)
			}
		}
	}
	if b.ControlType == controlAbort {
		st.Aborted = append(st.Aborted, bundle.AbortedTxn{
			ProducerID:       b.ProducerID,
			FirstOffset:      first,
			LastOffset:       b.LastOffset(),
			LastStableOffset: st.LastStable,
		})
	}
}

const controlAbort = 0 // Batch.ControlType of an abort marker

// transactional reads the batch's attribute bit 4.
func transactional(b bundle.Batch) bool { return b.Attributes&(1<<4) != 0 }

// FindProducer returns a producer's entry, or nil.
func FindProducer(st *bundle.State, id int64) *bundle.Producer {
	if i, ok := searchProducer(st, id); ok {
		return &st.Producers[i]
	}
	return nil
}

func searchProducer(st *bundle.State, id int64) (int, bool) {
	return slices.BinarySearchFunc(st.Producers, id, func(p bundle.Producer, id int64) int { return cmp.Compare(p.ID, id) })
}

// addProducer returns a producer's entry at the given epoch; a new epoch
// begins with an empty window.
func addProducer(st *bundle.State, id int64, epoch int16) *bundle.Producer {
	i, ok := searchProducer(st, id)
	if !ok {
		if len(st.Producers) >= MaxProducers {
			evictProducers(st)
			i, _ = searchProducer(st, id)
		}
		st.Producers = slices.Insert(st.Producers, i, bundle.Producer{
			ID: id, Epoch: epoch, CoordEpoch: -1, TxnFirstOffset: -1,
		})
		return &st.Producers[i]
	}
	p := &st.Producers[i]
	if p.Epoch != epoch {
		p.Epoch = epoch
		p.Batches = p.Batches[:0]
	}
	return p
}

// evictProducers makes room when too many producers wrote to the partition:
// the sixteenth part that was silent the longest goes, but for open
// transactions.
func evictProducers(st *bundle.State) {
	times := make([]int64, 0, len(st.Producers))
	for i := range st.Producers {
		times = append(times, st.Producers[i].LastTimestamp)
	}
	slices.Sort(times)
	limit, room := times[len(times)/16], len(times)/16+1
	st.Producers = slices.DeleteFunc(st.Producers, func(p bundle.Producer) bool {
		if room == 0 || p.LastTimestamp > limit || p.TxnFirstOffset >= 0 {
			return false
		}
		room--
		return true
	})
}

// CloneState returns a copy that shares nothing with st and can be folded into.
func CloneState(st *bundle.State) bundle.State {
	c := *st
	c.Epochs = slices.Clone(st.Epochs)
	c.Aborted = slices.Clone(st.Aborted)
	c.Producers = CloneProducers(st.Producers)
	return c
}

// CloneProducers returns a copy of the producers of a state.
func CloneProducers(ps []bundle.Producer) []bundle.Producer {
	c := slices.Clone(ps)
	n := 0
	for i := range c {
		c[i].Batches = c[i].Batches[max(0, len(c[i].Batches)-window):]
		n += len(c[i].Batches)
	}
	room := make([]bundle.ProducerBatch, 0, n) // one for all
	for i := range c {
		at := len(room)
		room = append(room, c[i].Batches...)
		c[i].Batches = room[at:len(room):len(room)]
	}
	return c
}
