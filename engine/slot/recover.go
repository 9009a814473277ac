package slot

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/wal"
)

// tail is what recovery knows of a partition: its state at its next offset
// and the slices that lie in no sealed segment yet.
type tail struct {
	state bundle.State
	hot   []partition.Ref
}

// recovery rebuilds tails from checkpoints and WAL footers. It is fed in
// order: each slot's checkpoints, oldest first, then its spans, oldest first.
type recovery struct {
	slots map[kafka.Slot]catalog.Slot // as they were before they were taken
	tails map[kafka.TopicPartition]*tail
}

func newRecovery(slots []catalog.Slot) *recovery {
	r := &recovery{
		slots: make(map[kafka.Slot]catalog.Slot, len(slots)),
		tails: make(map[kafka.TopicPartition]*tail),
	}
	for _, s := range slots {
		r.slots[s.Slot] = s
	}
	return r
}

// checkpoint takes in a checkpoint's footer: its states replace what older
// checkpoints said, its slices lie behind theirs.
func (r *recovery) checkpoint(key string, o *bundle.Object) error {
	for _, st := range o.States {
		if r.names(st.Slot, key) {
			r.tail(st.Slot, st.TP).state = st
		}
	}
	for _, s := range o.Slices {
		if !r.names(s.Slot, key) || len(s.Batches) == 0 {
			continue
		}
		t := r.tail(s.Slot, s.TP)
		ref := refOf(key, s)
		if n := len(t.hot); n > 0 && ref.Base <= t.hot[n-1].Last {
			return fmt.Errorf("recover %s: checkpoint %s has offset %d again", s.TP, key, ref.Base)
		}
		t.hot = append(t.hot, ref)
	}
	return nil
}

// wal takes in the footer of a WAL object: slices that a checkpoint has
// already are passed over, the others must follow without a gap.
func (r *recovery) wal(session catalog.SessionID, seq int64, key string, o *bundle.Object) error {
	for _, s := range o.Slices {
		if !r.spans(s.Slot, session, seq) || len(s.Batches) == 0 {
			continue
		}
		t := r.tail(s.Slot, s.TP)
		ref := refOf(key, s)
		switch {
		case ref.Last < t.state.NextOffset:
			continue
		case ref.Base != t.state.NextOffset:
			return fmt.Errorf("recover %s: %s begins at offset %d, want %d", s.TP, key, ref.Base, t.state.NextOffset)
		}
		for _, b := range s.Batches {
			partition.Fold(&t.state, b)
		}
		t.hot = append(t.hot, ref)
	}
	return nil
}

// sealed drops the slices that the newest sealed segment holds.
func (t *tail) sealed(end kafka.Offset) {
	n := 0
	for n < len(t.hot) && t.hot[n].Last < end {
		n++
	}
	t.hot = t.hot[n:]
	t.state.SealedEnd = max(t.state.SealedEnd, end)
}

func (r *recovery) tail(s kafka.Slot, tp kafka.TopicPartition) *tail {
	t := r.tails[tp]
	if t == nil {
		t = &tail{state: bundle.State{Slot: s, TP: tp}}
		r.tails[tp] = t
	}
	return t
}

// names tells whether a slot is recovered here from this checkpoint.
func (r *recovery) names(s kafka.Slot, key string) bool {
	for _, c := range r.slots[s].Checkpoints {
		if c.Key == key {
			return true
		}
	}
	return false
}

// spans tells whether a slot is recovered here from this WAL object.
func (r *recovery) spans(s kafka.Slot, session catalog.SessionID, seq int64) bool {
	for _, sp := range r.slots[s].Spans {
		if sp.Session == session && sp.From <= seq && (sp.To < 0 || seq < sp.To) {
			return true
		}
	}
	return false
}

func refOf(key string, s bundle.Slice) partition.Ref {
	ref := partition.Ref{Key: key, Pos: s.Pos, Len: s.Len, Base: s.Batches[0].BaseOffset, Last: s.Batches[len(s.Batches)-1].LastOffset()}
	for _, b := range s.Batches {
		ref.MaxTimestamp = max(ref.MaxTimestamp, b.MaxTimestamp)
	}
	return ref
}

// recoverTails reads what the slots name and returns their partitions' tails.
// ended has all the sessions that the slots' spans name, sealed.
func recoverTails(ctx context.Context, o *Options, slots []catalog.Slot, ended map[catalog.SessionID]catalog.Session) (map[kafka.TopicPartition]*tail, error) {
	r := newRecovery(slots)
	for _, key := range checkpointKeys(slots) {
		obj, err := readBundle(ctx, o, key)
		if err != nil {
			return nil, fmt.Errorf("recover checkpoint %s: %w", key, err)
		}
		if err := r.checkpoint(key, obj); err != nil {
			return nil, err
		}
	}
	for _, sp := range joinSpans(slots) {
		s, ok := ended[sp.Session]
		if !ok {
			return nil, fmt.Errorf("recover: no item of session %d/%d, which a slot names", sp.Session.Broker, sp.Session.Epoch)
		}
		from, to := max(sp.From, s.Trim+1), sp.To
		if to < 0 || to > s.SealedAt {
			to = s.SealedAt
		}
		err := wal.Replay(ctx, o.Store, wal.Span{Session: originOf(s), From: from, To: to}, func(key string, obj *bundle.Object) error {
			return r.wal(s.ID, obj.Origin.Seq, key, obj)
		})
		if err != nil {
			return nil, fmt.Errorf("replay session %d/%d from %d to %d: %w", s.ID.Broker, s.ID.Epoch, from, to, err)
		}
	}
	for tp, t := range r.tails {
		if err := settleSealed(ctx, o, tp, t); err != nil {
			return nil, err
		}
	}
	return r.tails, nil
}

// settleSealed asks the catalogue what of the tail was sealed after the newest
// checkpoint. A tail without slices has its answer in the checkpoint.
func settleSealed(ctx context.Context, o *Options, tp kafka.TopicPartition, t *tail) error {
	if len(t.hot) == 0 {
		return nil
	}
	newest, ok, err := o.Catalog.NewestSegment(ctx, tp)
	if err != nil {
		return fmt.Errorf("recover %s: newest segment: %w", tp, err)
	}
	if !ok {
		return nil
	}
	t.sealed(newest.End)
	if newest.End > t.state.NextOffset {
		return fmt.Errorf("recover %s: segment %s ends at offset %d, behind the log's end %d", tp, newest.Key, newest.End, t.state.NextOffset)
	}
	return nil
}

// checkpointKeys returns the checkpoints that the slots name, each once, older
// ones first in every slot's order.
func checkpointKeys(slots []catalog.Slot) []string {
	var keys []string
	seen := make(map[string]bool)
	for _, s := range slots {
		for _, c := range s.Checkpoints {
			if !seen[c.Key] {
				seen[c.Key] = true
				keys = append(keys, c.Key)
			}
		}
	}
	return keys
}

// joinSpans returns for each session that the slots name the least range that
// holds all their spans of it, in the slots' order of sessions.
func joinSpans(slots []catalog.Slot) []catalog.Span {
	var joined []catalog.Span
	at := make(map[catalog.SessionID]int)
	for _, s := range slots {
		for _, sp := range s.Spans {
			i, ok := at[sp.Session]
			if !ok {
				at[sp.Session] = len(joined)
				joined = append(joined, sp)
				continue
			}
			j := &joined[i]
			j.From = min(j.From, sp.From)
			if sp.To < 0 || j.To >= 0 && sp.To > j.To {
				j.To = sp.To
			}
		}
	}
	return joined
}

func originOf(s catalog.Session) bundle.Origin {
	return bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Nonce: s.Nonce}
}

func readBundle(ctx context.Context, o *Options, key string) (*bundle.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return bundle.Read(ctx, bundle.At(o.Store, key), nil)
}
