package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/wal"
)

const callTimeout = 30 * time.Second

// settleReads is how many newest segments are asked for at a time: a remote
// catalogue takes some milliseconds for each, and a takeover may be of thousands.
const settleReads = 128

// readAhead is how many checkpoints' footers are read at a time.
const readAhead = 16

// ErrInconsistent is the error, wrapped, of what was read well and does not
// fit together: reading it again does not help.
var ErrInconsistent = errors.New("recovery: what is there does not fit together")

var errBehind = fmt.Errorf("%w: a segment ends behind the log's end", ErrInconsistent)

// Read reads what the slots name and returns their partitions' tails. The catalogue is not
// asked for each partition what of it was sealed behind the newest checkpoint: that is in the
// tail still, all of it, and its owner finds out when there is time. sessions has all that the slots' spans name; where a span is open, the session's WAL is read up to
// its SealedAt, whatever its state. The topics that are there now, after the slots
// were read or taken, are what is read of: their snapshot is brought up to date first.
// Errors: wal.ErrHole for an object that should be there and ErrInconsistent,
// wrapped; those of store and catalogue.
func Read(ctx context.Context, store objstore.Store, cat *catalog.Catalog, slots []catalog.Slot, sessions map[catalog.SessionID]catalog.Session) (map[kafka.TopicPartition]*Tail, error) {
	r, err := read(ctx, store, cat, slots, sessions)
	if err != nil {
		return nil, err
	}
	for _, t := range r.tails {
		t.Sealed(t.State.SealedEnd) // of what was sealed before, older checkpoints may have a part
	}
	return r.tails, nil
}

func read(ctx context.Context, store objstore.Store, cat *catalog.Catalog, slots []catalog.Slot, sessions map[catalog.SessionID]catalog.Session) (*Recovery, error) {
	if err := cat.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	topics := cat.Topics()
	r := New(slots, func(id kafka.TopicID) bool {
		_, ok := topics.ByID(id)
		return ok
	})
	footers, err := readCheckpoints(ctx, store, slots)
	if err != nil {
		return nil, err
	}
	for key, ok := r.NextCheckpoint(); ok; key, ok = r.NextCheckpoint() {
		if err := r.Checkpoint(key, footers[key]); err != nil {
			return nil, err
		}
	}
	for run, ok := r.Next(); ok; run, ok = r.Next() {
		s, ok := sessions[run.Session]
		if !ok {
			return nil, fmt.Errorf("recover: %w: no item of session %d/%d, which a slot names", ErrInconsistent, run.Session.Broker, run.Session.Epoch)
		}
		if err := r.span(ctx, store, run, s); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// span takes in the footers of a span, up to the session's SealedAt.
func (r *Recovery) span(ctx context.Context, store objstore.Store, sp catalog.Span, s catalog.Session) error {
	from, to := max(sp.From, s.Trim+1), sp.To
	if to < 0 || s.State == catalog.Sealed && to > s.SealedAt {
		to = s.SealedAt
	}
	origin := bundle.Origin{Broker: s.ID.Broker, Epoch: s.ID.Epoch, Nonce: s.Nonce}
	err := wal.Replay(ctx, store, wal.Span{Session: origin, From: from, To: to}, func(key string, obj *bundle.Object) error {
		return r.WAL(s.ID, obj.Origin.Seq, key, obj)
	})
	if err != nil {
		return fmt.Errorf("replay session %d/%d from %d to %d: %w", s.ID.Broker, s.ID.Epoch, from, to, err)
	}
	return nil
}

func (r *Recovery) settle(ctx context.Context, cat *catalog.Catalog) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(settleReads)
	for tp, t := range r.tails {
		g.Go(func() error { return settleSealed(ctx, cat, tp, t) })
	}
	return g.Wait()
}

// settleSealed asks the catalogue what of the tail was sealed after the newest
// checkpoint. A tail without slices has its answer in the checkpoint.
func settleSealed(ctx context.Context, cat *catalog.Catalog, tp kafka.TopicPartition, t *Tail) error {
	if len(t.Hot) == 0 {
		return nil
	}
	newest, ok, err := cat.NewestSegment(ctx, tp)
	if err != nil {
		return fmt.Errorf("recover %s: newest segment: %w", tp, err)
	}
	if !ok {
		return nil
	}
	t.Sealed(newest.End)
	if newest.End > t.State.NextOffset {
		return fmt.Errorf("recover %s: %w: segment %s ends at offset %d, the log at %d", tp, errBehind, newest.Key, newest.End, t.State.NextOffset)
	}
	return nil
}

// CheckpointKeys returns the checkpoints that the slots name, each once.
func CheckpointKeys(slots []catalog.Slot) []string {
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
// holds all their spans of it.
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

// readCheckpoints reads the footers of all checkpoints that the slots name: of one
// owner's slots they are few.
func readCheckpoints(ctx context.Context, store objstore.Store, slots []catalog.Slot) (map[string]*bundle.Object, error) {
	keys := CheckpointKeys(slots)
	each := make([]*bundle.Object, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readAhead)
	for i, key := range keys {
		g.Go(func() (err error) {
			if each[i], err = readBundle(ctx, store, key); err != nil {
				return fmt.Errorf("recover checkpoint %s: %w", key, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	footers := make(map[string]*bundle.Object, len(keys))
	for i, key := range keys {
		footers[key] = each[i]
	}
	return footers, nil
}

func readBundle(ctx context.Context, store objstore.Store, key string) (*bundle.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return bundle.Read(ctx, bundle.At(store, key), nil)
}
