package slot

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

// keeper keeps the tails of a session short. One goroutine owns all its
// fields and does one thing at a time, so a segment's commit, a checkpoint
// and a trim never overlap.
type keeper struct {
	m        *Manager
	session  chan catalog.Session                  // of capacity 1: the session's item as last written
	sessions map[catalog.SessionID]catalog.Session // ended ones whose WAL may still have to be trimmed
	asks     chan chan error
	uploads  upload.Options

	checkpointed wal.Position // of the WAL at the newest checkpoint
	trimmed      atomic.Int64 // bytes of the WAL that the newest checkpoint made superfluous
	recovered    bool         // slots still name predecessors' WAL: the first checkpoint frees it
}

func newKeeper(m *Manager, sessions map[catalog.SessionID]catalog.Session) *keeper {
	k := &keeper{
		m: m, sessions: sessions,
		session: make(chan catalog.Session, 1),
		asks:    make(chan chan error),
		uploads: upload.Options{Store: m.o.Store, Cache: m.o.Cache, Origin: originOf(m.session), Count: new(atomic.Int64), Level: zstd.EncoderLevelFromZstd(m.o.Config().SealLevel)},
	}
	pace := &pacer{written: func() int64 { return m.wal.Position().Bytes }, backlog: k.backlog}
	k.uploads.Pace = pace.wait
	k.session <- m.session
	for _, s := range m.slots {
		k.recovered = k.recovered || len(s.Spans) > 1
	}
	return k
}

// backlog returns the WAL that waits to be trimmed, in parts of wal.backlog.max.bytes.
func (k *keeper) backlog() float64 {
	return float64(k.m.wal.Position().Bytes-k.trimmed.Load()) / float64(k.m.o.Config().WALBacklogMax)
}

// mine returns the session's item as last written.
func (k *keeper) mine() catalog.Session {
	s := <-k.session
	k.session <- s
	return s
}

// ask asks the running keeper for a checkpoint now and waits for it.
func (k *keeper) ask(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case k.asks <- done:
	case <-ctx.Done():
		return fmt.Errorf("ask for a checkpoint: %w", context.Cause(ctx))
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for a checkpoint: %w", context.Cause(ctx))
	}
}

// run works until stop closes or ctx ends. A failure is logged and tried
// again at the next turn: nothing here is on the path of an acknowledgement.
func (k *keeper) run(ctx context.Context, stop <-chan struct{}) error {
	tick := time.NewTicker(keeperPeriod)
	defer tick.Stop()
	expire := time.NewTicker(expirePeriod)
	defer expire.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-stop:
			return nil
		case done := <-k.asks:
			done <- k.checkpoint(ctx)
		case now := <-expire.C:
			for _, l := range k.m.set.All() {
				l.ExpireProducers(now)
			}
		case <-tick.C:
			if err := k.turn(ctx); err != nil && ctx.Err() == nil {
				k.m.o.Logger.Warn("keep tails short", "err", err)
			}
		}
	}
}

// turn rolls what is due and writes a checkpoint when one is.
func (k *keeper) turn(ctx context.Context) error {
	var errs []error
	now, check := time.Now(), k.m.o.Config().RetentionCheckInterval
	for _, l := range k.m.set.All() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if l.RollDue(now, 0, check) {
			errs = append(errs, k.seal(ctx, l))
		}
	}
	if k.checkpointDue() {
		errs = append(errs, k.checkpoint(ctx))
	}
	return errors.Join(errs...)
}

func (k *keeper) checkpointDue() bool {
	cfg, now := k.m.o.Config(), k.m.wal.Position()
	return k.recovered || now.Durable-k.checkpointed.Durable >= cfg.WALCheckpointObjects ||
		now.Bytes-k.checkpointed.Bytes >= cfg.WALCheckpointBytes
}

// seal writes a log's hot slices as one sealed segment and commits it.
func (k *keeper) seal(ctx context.Context, l *partition.Log) error {
	topic, ok := k.m.o.Catalog.Topics().ByID(l.TP().Topic)
	if !ok {
		return nil // deleted: Reconcile closes the log
	}
	snap := l.Snapshot()
	if len(snap.Hot) == 0 {
		return nil
	}
	slot, ok := k.m.Slot(snap.State.Slot)
	if !ok {
		return nil
	}
	seg, err := upload.Segment(ctx, k.uploads, sourceOf(snap))
	if err != nil {
		return fmt.Errorf("seal %s-%d from offset %d: %w", topic.Name, l.TP().Partition, snap.Hot[0].Base, err)
	}
	err = k.m.o.Catalog.AddSegment(ctx, slot, *topic, seg)
	if errors.Is(err, catalog.ErrExists) {
		// An earlier attempt, whose outcome stayed unknown, was applied.
		return k.adopt(ctx, l)
	}
	if err != nil {
		return fmt.Errorf("commit segment %s: %w", seg.Key, err)
	}
	k.m.o.Cold.Forget(seg.TP)
	l.Sealed(seg)
	k.m.o.Logger.Debug("segment sealed", "topic", topic.Name, "partition", l.TP().Partition, "base", seg.Base, "end", seg.End, "bytes", seg.Size)
	return nil
}

// adopt takes up the newest segment that the catalogue has of a log.
func (k *keeper) adopt(ctx context.Context, l *partition.Log) error {
	newest, ok, err := k.m.o.Catalog.NewestSegment(ctx, l.TP())
	if err == nil && !ok {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("adopt newest segment of %s: %w", l.TP(), err)
	}
	k.m.o.Cold.Forget(l.TP())
	l.Sealed(newest)
	return nil
}

func sourceOf(s partition.Snapshot) upload.Source {
	return upload.Source{
		TP: s.State.TP, Base: s.Hot[0].Base, End: s.State.NextOffset,
		State: s.State, Slices: s.Hot,
	}
}

// checkpoint writes the hot slices that lie in the WAL, and every partition's
// state, into one bundle; commits it to the slots; and trims what nothing names any more.
func (k *keeper) checkpoint(ctx context.Context) error {
	cut := k.m.wal.Position()
	if cut.Durable == k.checkpointed.Durable && !k.recovered {
		return nil
	}
	for _, l := range k.m.set.All() {
		if l.RollDue(time.Now(), ownSegment, k.m.o.Config().RetentionCheckInterval) {
			if err := k.seal(ctx, l); err != nil {
				return err
			}
		}
	}
	slots := k.m.Owned()
	merge := mergeDue(slots)
	parts := k.parts(merge)
	out, err := upload.Checkpoint(ctx, k.uploads, parts)
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	next := afterCheckpoint(slots, k.m.session.ID, cut.Durable, catalog.CheckpointRef{Key: out.Key, Size: out.Size}, merge)
	for lo := 0; lo < len(next); lo += commitBatch {
		hi := min(lo+commitBatch, len(next))
		committed, err := k.m.o.Catalog.CommitCheckpoint(ctx, k.mine(), next[lo:hi])
		if err != nil {
			return fmt.Errorf("commit checkpoint %s: %w", out.Key, err)
		}
		k.m.setSlots(committed)
	}
	for _, moved := range out.Moved {
		if l, ok := k.m.set.Get(moved.TP); ok {
			l.Moved(moved.Slices, out.Key)
		}
	}
	k.checkpointed, k.recovered = cut, false
	k.trimmed.Store(cut.Bytes)
	k.m.o.Logger.Debug("checkpoint written", "key", out.Key, "bytes", out.Size, "wal_from", cut.Durable)
	return k.sweep(ctx, slots)
}

// parts are the partitions' states and the slices that this checkpoint takes:
// those in the WAL, or, to merge older checkpoints into it, all hot ones.
func (k *keeper) parts(merge bool) []upload.CheckpointPart {
	var parts []upload.CheckpointPart
	for _, l := range k.m.set.All() {
		snap := l.Snapshot()
		if snap.State.NextOffset == 0 {
			continue
		}
		part := upload.CheckpointPart{State: snap.State}
		for _, r := range snap.Hot {
			if merge || inWAL(r.Key) {
				part.Slices = append(part.Slices, r)
			}
		}
		parts = append(parts, part)
	}
	return parts
}

// mergeDue tells whether a slot names as many checkpoints as it may.
func mergeDue(slots []catalog.Slot) bool {
	for _, s := range slots {
		if len(s.Checkpoints) >= maxCkpts {
			return true
		}
	}
	return false
}

// afterCheckpoint returns the slots as a checkpoint at cut leaves them: one
// span from the cut on, and one more checkpoint, or this alone after a merge.
func afterCheckpoint(slots []catalog.Slot, mine catalog.SessionID, cut int64, ref catalog.CheckpointRef, merged bool) []catalog.Slot {
	next := make([]catalog.Slot, len(slots))
	for i, s := range slots {
		next[i] = s
		next[i].Spans = []catalog.Span{{Session: mine, From: cut, To: -1}}
		if merged {
			next[i].Checkpoints = []catalog.CheckpointRef{ref}
			continue
		}
		next[i].Checkpoints = append(append([]catalog.CheckpointRef{}, s.Checkpoints...), ref)
	}
	return next
}

func inWAL(key string) bool { return len(key) > 4 && key[:4] == "wal/" }
