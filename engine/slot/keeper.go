package slot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

// keeper keeps the tails of a session short, and hands slots over. One goroutine
// owns all its fields and does one thing at a time, so a segment's commit, a
// checkpoint, a trim and a hand-over never overlap.
type keeper struct {
	m       *Manager
	asks    chan ask
	due     chan struct{}    // one token: balance now
	again   <-chan time.Time // when to balance again; nil: nobody is waited for
	uploads upload.Options
	pace    *pacer // of uploads

	waiting      atomic.Int32 // asks
	moving       atomic.Bool  // slots are being handed over
	checkpointed wal.Position // of the WAL at the newest checkpoint
	swept        time.Time
	trimmed      atomic.Int64 // bytes of the WAL that the newest checkpoint made superfluous
	recovered    atomic.Bool  // slots still name others' WAL: the next checkpoint frees it
	leaving      atomic.Bool  // the session is to end
	counted      atomic.Pointer[hotCount]
	askedAt      map[kafka.Slot]time.Time // when somebody has asked for a slot's partitions, last
	lulled       time.Time                // when slots were looked for that nobody asks for
}

// errHaste means that a leaving session gives up what would take it long.
var errHaste = errors.New("the session leaves, and its tails are long")

// ask is something for the keeper to do, and where to tell how it went.
type ask struct {
	do   func(context.Context) error
	done chan error
}

func newKeeper(m *Manager) *keeper {
	k := &keeper{
		m: m, asks: make(chan ask), due: make(chan struct{}, 1), swept: time.Now(),
		uploads: upload.Options{Store: m.o.Store, Cache: m.o.Cache, Origin: originOf(m.session), Count: new(atomic.Int64), Level: zstd.EncoderLevelFromZstd(m.o.Config().SealLevel)},
	}
	k.pace = &pacer{written: func() int64 { return m.wal.Position().Bytes }, backlog: func() float64 { return k.backlog(0) }, hurry: k.hurry}
	k.uploads.Pace = func(ctx context.Context, n int64) error {
		if k.haste() {
			return errHaste
		}
		return k.pace.wait(ctx, n)
	}
	return k
}

// haste tells whether tails are left as they are because the session leaves: a
// new owner reads the footers of the WAL, which is quick even where gathering the records in a checkpoint is not.
func (k *keeper) haste() bool { return k.leaving.Load() && k.tail() > leaveBytes }

// tail returns the bytes of WAL behind the newest checkpoint.
func (k *keeper) tail() int64 { return k.m.wal.Position().Bytes - k.trimmed.Load() }

// hurry tells whether somebody waits for the keeper, or slots for their new owner.
func (k *keeper) hurry() bool { return k.waiting.Load() > 0 || len(k.due) > 0 || k.moving.Load() }

// backlog returns the WAL that waits to be trimmed, in parts of wal.backlog.max.bytes, or the records that wait to
// be sealed, with some more, in parts of what the disk has for them, if that is more.
func (k *keeper) backlog(more int64) float64 {
	return max(float64(k.tail())/float64(k.m.o.Config().WALBacklogMax), k.cramped(more))
}

// look makes the running keeper look what is due.
func (k *keeper) look() {
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// ask asks the running keeper to do something now and waits for it.
// wal.ErrClosed: the session has ended.
func (k *keeper) ask(ctx context.Context, do func(context.Context) error) error {
	a := ask{do, make(chan error, 1)}
	k.waiting.Add(1)
	defer k.waiting.Add(-1)
	select {
	case k.asks <- a:
	case <-k.m.done:
		return wal.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("ask the keeper: %w", context.Cause(ctx))
	}
	select {
	case err := <-a.done:
		return err
	case <-k.m.done:
		return wal.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for the keeper: %w", context.Cause(ctx))
	}
}

// run works until ctx ends. A failure is logged and tried
// again at the next turn: nothing here is on the path of an acknowledgement.
func (k *keeper) run(ctx context.Context) error {
	tick := time.NewTicker(keeperPeriod)
	defer tick.Stop()
	expire := time.NewTicker(expirePeriod)
	defer expire.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case a := <-k.asks:
			a.done <- a.do(ctx)
		case now := <-expire.C:
			before := now.Add(-k.m.o.Config().ProducerIDExpiration)
			for _, l := range k.m.set.All() {
				l.ExpireProducers(before)
			}
		case <-k.due:
			err = k.balance(ctx)
		case <-k.again:
			err = k.balance(ctx)
		case <-tick.C:
			err = errors.Join(k.balance(ctx), k.turn(ctx))
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errHaste) {
			k.m.o.Logger.Warn("keep tails short", "err", err)
		}
	}
}

// turn settles tails that were recovered, has logs rest that nothing is appended to, rolls what is due, writes a checkpoint when one
// is, sweeps, and makes slots dormant.
func (k *keeper) turn(ctx context.Context) error {
	if err := k.settleTails(ctx); err != nil {
		return err
	}
	k.countHot()
	var errs []error
	now, check := time.Now(), k.m.o.Config().RetentionCheckInterval
	logs := k.m.set.All()
	k.notice(logs, now)
	for _, l := range logs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.Rest()
		if l.RollDue(now, 0, check) {
			errs = append(errs, k.seal(ctx, l))
		}
	}
	switch {
	case k.checkpointDue():
		errs = append(errs, k.checkpoint(ctx))
	case now.Sub(k.swept) >= sweepPeriod:
		errs = append(errs, k.sweep(ctx, nil))
	}
	return errors.Join(append(errs, k.lull(ctx, logs, now))...)
}

func (k *keeper) checkpointDue() bool {
	cfg, now := k.m.o.Config(), k.m.wal.Position()
	return k.recovered.Load() || now.Durable-k.checkpointed.Durable >= cfg.WALCheckpointObjects ||
		now.Bytes-k.checkpointed.Bytes >= min(cfg.WALCheckpointBytes, cfg.WALBacklogMax/2) || k.cramped(0) >= urgent
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
	k.pace.begin()
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

// settleTails takes up what former owners have sealed of tails that were recovered:
// a takeover does not wait for a read of each partition's segments. A checkpoint does, since
// in it slices are joined, over the end of a segment as well.
func (k *keeper) settleTails(ctx context.Context) error {
	todo := k.m.unsettledTails()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, tp := range todo {
		if l, ok := k.m.set.Peek(tp); ok {
			g.Go(func() error { return k.adopt(gctx, l) })
		}
	}
	err := g.Wait()
	if err != nil {
		k.m.unsettle(todo) // all again
	}
	return err
}

// adopt takes up the newest segment that the catalogue has of a log, if that is news.
func (k *keeper) adopt(ctx context.Context, l *partition.Log) error {
	newest, ok, err := k.m.o.Catalog.NewestSegment(ctx, l.TP())
	if err != nil {
		return fmt.Errorf("adopt newest segment of %s: %w", l.TP(), err)
	}
	if !ok || newest.End <= l.SealedEnd() {
		return nil
	}
	if end := l.Snapshot().State.NextOffset; newest.End > end { // another owner's: the slot is mine no more
		return fmt.Errorf("adopt newest segment of %s, which ends at %d, the log at %d: %w", l.TP(), newest.End, end, catalog.ErrFenced)
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
func (k *keeper) checkpoint(ctx context.Context) (err error) {
	recovered := k.recovered.Swap(false)
	defer func() {
		if err != nil && recovered {
			k.recovered.Store(true)
		}
	}()
	defer k.countHot()
	cut, little := k.m.wal.Position(), k.cramped(0) >= urgent
	if cut.Durable == k.checkpointed.Durable && !recovered && !little {
		return nil
	}
	slots := k.m.Owned() // those that come from now on may not be settled
	if err := k.settleTails(ctx); err != nil {
		return err
	}
	logs := k.m.set.All()
	own := k.own(logs)
	for _, l := range logs {
		if l.RollDue(time.Now(), own, k.m.o.Config().RetentionCheckInterval) {
			if err := k.seal(ctx, l); err != nil {
				return err
			}
		}
	}
	if len(slots) > 0 {
		if err := k.commit(ctx, slots, cut, little || mergeDue(slots)); err != nil {
			return err
		}
	}
	k.checkpointed = cut
	k.trimmed.Store(cut.Bytes)
	return k.sweep(ctx, slots)
}

// commit writes the checkpoint of slots at cut and makes them name it: it alone, if older ones are merged into it.
// Dormant slots go on naming what they named: who wakes one meanwhile appends behind the cut. What has more batches than one
// checkpoint can list goes into several, of half the slots each; of a single slot, the tails are sealed first.
func (k *keeper) commit(ctx context.Context, slots []catalog.Slot, cut wal.Position, merge bool) error {
	err := k.commitOne(ctx, slots, cut, merge)
	if !errors.Is(err, bundle.ErrTooLarge) {
		return err
	}
	if half := len(slots) / 2; half > 0 {
		if err := k.commit(ctx, slots[:half], cut, merge); err != nil {
			return err
		}
		return k.commit(ctx, slots[half:], cut, merge)
	}
	for _, l := range k.m.set.All() {
		if l.Slot() == slots[0].Slot {
			if err := k.seal(ctx, l); err != nil {
				return err
			}
		}
	}
	return k.commitOne(ctx, slots, cut, merge)
}

// commitOne is commit with one checkpoint. bundle.ErrTooLarge: there are too many batches.
func (k *keeper) commitOne(ctx context.Context, slots []catalog.Slot, cut wal.Position, merge bool) error {
	awake := k.m.awake(slots)
	var out upload.CheckpointInfo
	if len(awake) > 0 {
		k.pace.begin()
		var err error
		if out, err = upload.Checkpoint(ctx, k.uploads, k.parts(awake, merge)); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	next := afterCheckpoint(slots, setOf(awake), k.m.session.ID, cut.Durable, catalog.CheckpointRef{Key: out.Key, Size: out.Size}, merge)
	for batch := range slices.Chunk(next, commitBatch) {
		committed, err := k.m.o.Catalog.CommitCheckpoint(ctx, k.m.mine(), batch)
		if err != nil {
			return fmt.Errorf("commit checkpoint %s: %w", out.Key, err)
		}
		k.m.setSlots(committed)
		k.moved(committed, out)
	}
	k.m.o.Logger.Debug("checkpoint written", "key", out.Key, "bytes", out.Size, "wal_from", cut.Durable)
	return nil
}

// moved tells the logs of slots that their slices lie in the checkpoint that
// these name now.
func (k *keeper) moved(slots []catalog.Slot, in upload.CheckpointInfo) {
	named := setOf(slots)
	for _, moved := range in.Moved {
		if l, ok := k.m.set.Peek(moved.TP); ok && named[l.Slot()] {
			l.Moved(moved.Slices, in.Key)
		}
	}
}

// parts are the partitions' states and the slices that this checkpoint takes:
// those in the WAL, or, to merge older checkpoints into it, all hot ones.
func (k *keeper) parts(slots []catalog.Slot, merge bool) []upload.CheckpointPart {
	in := setOf(slots)
	var parts []upload.CheckpointPart
	for _, l := range k.m.set.All() {
		if !in[l.Slot()] { // opened since
			continue
		}
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
// span from the cut on, and, those that it has, one more checkpoint, or this alone after a merge.
func afterCheckpoint(slots []catalog.Slot, has map[kafka.Slot]bool, mine catalog.SessionID, cut int64, ref catalog.CheckpointRef, merged bool) []catalog.Slot {
	next := make([]catalog.Slot, len(slots))
	for i, s := range slots {
		next[i] = s
		next[i].Spans = []catalog.Span{{Session: mine, From: cut, To: -1}}
		switch {
		case !has[s.Slot]:
		case merged:
			next[i].Checkpoints = []catalog.CheckpointRef{ref}
		default:
			next[i].Checkpoints = append(append([]catalog.CheckpointRef{}, s.Checkpoints...), ref)
		}
	}
	return next
}

func inWAL(key string) bool { return len(key) > 4 && key[:4] == "wal/" }
