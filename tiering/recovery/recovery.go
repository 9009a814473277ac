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

// Recovery rebuilds tails from footers. It is fed in order: the checkpoints
// that NextCheckpoint names, then the runs of WAL objects that Next names.
type Recovery struct {
	checkpoints order[catalog.CheckpointRef, string]
	spans       order[catalog.Span, catalog.SessionID]
	named       map[kafka.Slot]catalog.CheckpointRef // what NextCheckpoint has named last, of each slot that names it
	turn        map[kafka.Slot]catalog.Span          // likewise Next
	known       func(kafka.TopicID) bool
	tails       map[kafka.TopicPartition]*Tail
}

// New returns a Recovery of the partitions of slots, whose checkpoints and
// spans say what of the footers concerns them. known tells which topics are there: an
// owner writes nothing of a deleted one into its checkpoints, so what is left
// of such a topic in older footers does not fit together any more, and is passed over.
func New(slots []catalog.Slot, known func(kafka.TopicID) bool) *Recovery {
	r := &Recovery{known: known, tails: make(map[kafka.TopicPartition]*Tail)}
	r.checkpoints.left, r.checkpoints.id = make(map[kafka.Slot][]catalog.CheckpointRef), func(c catalog.CheckpointRef) string { return c.Key }
	r.spans.left, r.spans.id = make(map[kafka.Slot][]catalog.Span), func(s catalog.Span) catalog.SessionID { return s.Session }
	for _, s := range slots {
		r.checkpoints.add(s.Slot, s.Checkpoints)
		r.spans.add(s.Slot, s.Spans)
	}
	return r
}

// NextCheckpoint names the next checkpoint to be fed.
func (r *Recovery) NextCheckpoint() (key string, ok bool) {
	key, r.named, ok = r.checkpoints.next()
	return key, ok
}

// Next names the next run of a session's WAL to be fed: the least that holds
// the next span of every slot that goes on with this session.
func (r *Recovery) Next() (run catalog.Span, ok bool) {
	if run.Session, r.turn, ok = r.spans.next(); !ok {
		return run, false
	}
	first := true
	for _, sp := range r.turn {
		if first {
			run, first = sp, false
			continue
		}
		run.From = min(run.From, sp.From)
		if sp.To < 0 || run.To >= 0 && sp.To > run.To {
			run.To = sp.To
		}
	}
	return run, true
}

// goOn lets footers that come behind all that Next has named be fed: of each
// slot's last span.
func (r *Recovery) goOn(slots []catalog.Slot) {
	r.turn = make(map[kafka.Slot]catalog.Span, len(slots))
	for _, s := range slots {
		if n := len(s.Spans); n > 0 {
			r.turn[s.Slot] = s.Spans[n-1]
		}
	}
}

// Tails returns the tails as far as they were rebuilt.
func (r *Recovery) Tails() map[kafka.TopicPartition]*Tail { return r.tails }

// Checkpoint takes in the footer of the checkpoint that NextCheckpoint has named: its states replace what older
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

// WAL takes in the footer of a WAL object of the session that Next has named: slices that a checkpoint
// has already are passed over, the others must follow without a gap.
func (r *Recovery) WAL(session catalog.SessionID, seq int64, key string, o *bundle.Object) error {
	for _, s := range o.Slices {
		if !r.takes(s.Slot, session, seq) || !r.known(s.TP.Topic) || len(s.Batches) == 0 {
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
	t.drop(end)
	t.State.SealedEnd = max(t.State.SealedEnd, end)
}

// From drops the slices that lie below the log's start: an older checkpoint has a part of
// them, and what followed there was in the WAL when the start was raised, and in no checkpoint since. Errors: ErrInconsistent,
// wrapped, if a record from there on is missing.
func (t *Tail) From(start kafka.Offset) error {
	t.drop(start)
	if start > t.State.NextOffset {
		return fmt.Errorf("%w: the log starts at offset %d, behind its end %d", ErrInconsistent, start, t.State.NextOffset)
	}
	for i, r := range t.Hot {
		if i > 0 && r.Base != t.Hot[i-1].Last+1 {
			return fmt.Errorf("%w: offset %d follows %d", ErrInconsistent, r.Base, t.Hot[i-1].Last)
		}
	}
	if n := len(t.Hot); n > 0 && t.Hot[n-1].Last+1 != t.State.NextOffset {
		return fmt.Errorf("%w: the slices end at offset %d, the log at %d", ErrInconsistent, t.Hot[n-1].Last+1, t.State.NextOffset)
	}
	return nil
}

// drop drops the slices that lie wholly below off.
func (t *Tail) drop(off kafka.Offset) {
	n := 0
	for n < len(t.Hot) && t.Hot[n].Last < off {
		n++
	}
	t.Hot = t.Hot[n:]
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
	c, ok := r.named[s]
	return ok && c.Key == key
}

// takes tells whether a slot is recovered here from this WAL object.
func (r *Recovery) takes(s kafka.Slot, session catalog.SessionID, seq int64) bool {
	sp, ok := r.turn[s]
	return ok && sp.Session == session && sp.From <= seq && (sp.To < 0 || seq < sp.To)
}
