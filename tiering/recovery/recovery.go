// Package recovery rebuilds what is known of partitions behind their sealed
// segments, their tails, from what the slot items name: the footers of
// checkpoints and of the WAL objects behind them. An owner does it when it
// takes slots, a reader without a broker when it looks for the newest records.
//
//	slot item    checkpoints ─▶ footers: states, slices ─┐
//	             spans ───────▶ WAL footers: batches ────┴─▶ Tail: state at its next offset, hot slices
//	catalogue    newest segment ───────────────────────────▶ what of them is sealed already
//
// Fold is the one function that takes a batch into a partition's state, for
// who appends as for who recovers. Nothing here reads records.
package recovery

import (
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

// Tail is what is known of a partition: its state at its next offset, and the
// slices that lie in no sealed segment yet, ascending, without gaps.
type Tail struct {
	State bundle.State
	Hot   []bundle.Ref
}

// Recovery rebuilds tails from footers. It is fed in order: each slot's
// checkpoints, oldest first, then its spans, oldest first.
type Recovery struct {
	slots map[kafka.Slot]catalog.Slot
	known func(kafka.TopicID) bool
	tails map[kafka.TopicPartition]*Tail
}

// New returns a Recovery of the partitions of slots, whose checkpoints and
// spans say what of the footers concerns them. known tells which topics are there: an
// owner writes nothing of a deleted one into its checkpoints, so what is left
// of such a topic in older footers does not fit together any more, and is passed over.
func New(slots []catalog.Slot, known func(kafka.TopicID) bool) *Recovery {
	r := &Recovery{
		known: known,
		slots: make(map[kafka.Slot]catalog.Slot, len(slots)),
		tails: make(map[kafka.TopicPartition]*Tail),
	}
	for _, s := range slots {
		r.slots[s.Slot] = s
	}
	return r
}

// Tails returns the tails as far as they were rebuilt.
func (r *Recovery) Tails() map[kafka.TopicPartition]*Tail { return r.tails }

// Checkpoint takes in a checkpoint's footer: its states replace what older
// checkpoints said, its slices lie behind theirs.
func (r *Recovery) Checkpoint(key string, o *bundle.Object) error {
	for _, st := range o.States {
		if r.names(st.Slot, key) && r.known(st.TP.Topic) {
			r.tail(st.Slot, st.TP).State = st
		}
	}
	for _, s := range o.Slices {
		if !r.names(s.Slot, key) || !r.known(s.TP.Topic) || len(s.Batches) == 0 {
			continue
		}
		t := r.tail(s.Slot, s.TP)
		ref := s.Ref(key)
		if n := len(t.Hot); n > 0 && ref.Base <= t.Hot[n-1].Last {
			return fmt.Errorf("recover %s: %w: checkpoint %s has offset %d again", s.TP, ErrInconsistent, key, ref.Base)
		}
		t.Hot = append(t.Hot, ref)
	}
	return nil
}

// WAL takes in the footer of a session's WAL object: slices that a checkpoint
// has already are passed over, the others must follow without a gap.
func (r *Recovery) WAL(session catalog.SessionID, seq int64, key string, o *bundle.Object) error {
	for _, s := range o.Slices {
		if !r.spans(s.Slot, session, seq) || !r.known(s.TP.Topic) || len(s.Batches) == 0 {
			continue
		}
		t := r.tail(s.Slot, s.TP)
		ref := s.Ref(key)
		switch {
		case ref.Last < t.State.NextOffset:
			continue
		case ref.Base != t.State.NextOffset:
			return fmt.Errorf("recover %s: %w: %s begins at offset %d, want %d", s.TP, ErrInconsistent, key, ref.Base, t.State.NextOffset)
		}
		for _, b := range s.Batches {
			Fold(&t.State, b)
		}
		t.Hot = append(t.Hot, ref)
	}
	return nil
}

// Sealed drops the slices that a sealed segment up to end (exclusive) holds.
func (t *Tail) Sealed(end kafka.Offset) {
	n := 0
	for n < len(t.Hot) && t.Hot[n].Last < end {
		n++
	}
	t.Hot = t.Hot[n:]
	t.State.SealedEnd = max(t.State.SealedEnd, end)
}

func (r *Recovery) tail(s kafka.Slot, tp kafka.TopicPartition) *Tail {
	t := r.tails[tp]
	if t == nil {
		t = &Tail{State: bundle.State{Slot: s, TP: tp}}
		r.tails[tp] = t
	}
	return t
}

// names tells whether a slot is recovered here from this checkpoint.
func (r *Recovery) names(s kafka.Slot, key string) bool {
	for _, c := range r.slots[s].Checkpoints {
		if c.Key == key {
			return true
		}
	}
	return false
}

// spans tells whether a slot is recovered here from this WAL object.
func (r *Recovery) spans(s kafka.Slot, session catalog.SessionID, seq int64) bool {
	for _, sp := range r.slots[s].Spans {
		if sp.Session == session && sp.From <= seq && (sp.To < 0 || seq < sp.To) {
			return true
		}
	}
	return false
}
