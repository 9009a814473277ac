package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/compaction"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

const compactionJob = compaction.JobName

// scan is one rebuild. Of what it reads it keeps little: of a segment its entry, until its
// partition is done; of checkpoints and WAL objects offsets.
type scan struct {
	o        Options
	scratch  *catalog.Catalog
	report   *Report
	manifest *manifest.Manifest // nil: none
	plan     plan

	topics      map[kafka.TopicID]*catalog.Topic // that are taken
	deleted     map[kafka.TopicID]bool
	unnamed     map[kafka.TopicID]bool // seen, and neither taken nor deleted
	logs        map[kafka.TopicPartition]*log
	epochs      map[kafka.Slot]kafka.LeaderEpoch // the highest seen
	checkpoints map[kafka.Slot][]*checkpoint
	sessions    map[catalog.SessionID]*session
}

// log is what is known of a partition's log.
type log struct {
	slot      kafka.Slot // as the footers say; -1: none has said
	start     kafka.Offset
	segments  int64
	base, end kafka.Offset // of the segments
	missing   []Run        // between them
	sealedEnd kafka.Offset // what the newest checkpoint says
	next      kafka.Offset // behind the newest checkpoint
	cut       Run          // what checkpoints should have between the segments and what they have; empty: nothing
}

func newScan(o Options, scratch *catalog.Catalog) *scan {
	return &scan{
		o: o, scratch: scratch, report: &Report{Manifest: -1, Kinds: map[Kind]int{}, Findings: []Finding{}},
		topics: map[kafka.TopicID]*catalog.Topic{}, deleted: map[kafka.TopicID]bool{}, unnamed: map[kafka.TopicID]bool{},
		logs: map[kafka.TopicPartition]*log{}, epochs: map[kafka.Slot]kafka.LeaderEpoch{},
		checkpoints: map[kafka.Slot][]*checkpoint{}, sessions: map[catalog.SessionID]*session{},
		plan: plan{highest: map[int32]int64{}, starts: map[kafka.Slot]map[kafka.TopicPartition]kafka.Offset{}},
	}
}

func (s *scan) log(tp kafka.TopicPartition) *log {
	l := s.logs[tp]
	if l == nil {
		l = &log{slot: -1}
		s.logs[tp] = l
	}
	return l
}

// takes tells whether a topic is to be in the catalogue, and notes that it was seen.
func (s *scan) takes(id kafka.TopicID) bool {
	if s.topics[id] != nil {
		return true
	}
	if s.deleted[id] || s.o.Skip[id] {
		return false
	}
	name, wanted := s.o.Names[id]
	if s.manifest != nil && !wanted {
		s.unnamed[id] = true
		return false
	}
	s.topics[id] = &catalog.Topic{ID: id, Name: name, ReplicationFactor: 1}
	return true
}

// seen notes in which slot a partition lies.
func (s *scan) seen(tp kafka.TopicPartition, slot kafka.Slot) *log {
	l, t := s.log(tp), s.topics[tp.Topic]
	if l.slot >= 0 && l.slot != slot {
		s.report.found(Broken, "%s is in slot %d and in slot %d", tp, l.slot, slot)
	}
	l.slot, t.Partitions = slot, max(t.Partitions, tp.Partition+1)
	return l
}

func (s *scan) epoch(slot kafka.Slot, e kafka.LeaderEpoch) {
	if known, ok := s.epochs[slot]; !ok || e > known {
		s.epochs[slot] = e
	}
}

// state notes what a partition's state says of epochs and producers.
func (s *scan) state(st *bundle.State) {
	for _, e := range st.Epochs {
		s.epoch(st.Slot, e.Epoch)
	}
	for i := range st.Producers {
		s.producer(st.Producers[i].ID)
	}
}

func (s *scan) producer(id int64) { s.plan.producers = max(s.plan.producers, id+1) }

// wrote notes a session of whoever wrote an object.
func (s *scan) wrote(o bundle.Origin) {
	if o.Broker == upload.JobBroker {
		s.plan.lease = max(s.plan.lease, o.Epoch)
		return
	}
	if e, ok := s.plan.highest[o.Broker]; !ok || o.Epoch > e {
		s.plan.highest[o.Broker] = o.Epoch
	}
}

// session returns the session of an origin.
func (s *scan) session(o bundle.Origin) *session {
	s.wrote(o)
	id := catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}
	at := s.sessions[id]
	if at == nil {
		at = &session{id: id}
		s.sessions[id] = at
	}
	return at
}

// list calls fn with all objects under a prefix, in order.
func (s *scan) list(ctx context.Context, prefix string, fn func(objstore.Info) error) error {
	for after := ""; ; {
		var page []objstore.Info
		err := bounded(ctx, func(ctx context.Context) (err error) {
			page, err = s.o.Store.List(ctx, prefix, after, objstore.MaxList)
			return err
		})
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, o := range page {
			if err := fn(o); err != nil {
				return err
			}
			after = o.Key
		}
		if len(page) < objstore.MaxList {
			return nil
		}
	}
}

// footers reads the footers of objects, many at a time, and calls fn with each
// in order. What is damaged is told; what has gone meanwhile is passed over.
func (s *scan) footers(ctx context.Context, keys []string, fn func(key string, o *bundle.Object)) error {
	batch := 4 * s.o.Parallel
	read, errs := make([]*bundle.Object, batch), make([]error, batch)
	for len(keys) > 0 {
		n := min(batch, len(keys))
		var g errgroup.Group
		g.SetLimit(s.o.Parallel)
		for i, key := range keys[:n] {
			g.Go(func() error {
				read[i], errs[i] = s.footer(ctx, key)
				return nil
			})
		}
		_ = g.Wait() // in errs
		for i, key := range keys[:n] {
			switch err := errs[i]; {
			case errors.Is(err, objstore.ErrNotFound):
			case errors.Is(err, bundle.ErrCorrupt):
				s.report.found(Lost, "%s is damaged: %v", key, err)
			case err != nil:
				return fmt.Errorf("read %s: %w", key, err)
			default:
				fn(key, read[i])
			}
		}
		keys = keys[n:]
	}
	return nil
}

// footer reads a footer, in several attempts: a million reads do not begin anew
// for one of them.
func (s *scan) footer(ctx context.Context, key string) (o *bundle.Object, err error) {
	for try := 1; ; try++ {
		err = bounded(ctx, func(ctx context.Context) error {
			o, err = bundle.Read(ctx, bundle.At(s.o.Store, key), nil)
			return err
		})
		if err == nil || unfit(err) || try == attempts {
			return o, err
		}
		select {
		case <-time.After(time.Duration(try) * retryPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// readSegments reads the footers of all segments and enters those that make up
// the logs, one partition after the other.
func (s *scan) readSegments(ctx context.Context) error {
	var keys []string
	var of kafka.TopicPartition
	done := func() error {
		err := s.readLog(ctx, of, keys)
		keys = keys[:0]
		return err
	}
	err := s.list(ctx, upload.SegmentPrefix, func(o objstore.Info) error {
		tp, _, writer, ok := upload.ParseSegmentKey(o.Key)
		if !ok {
			s.report.found(Note, "%s is no key of a segment", o.Key)
			return nil
		}
		s.wrote(writer)
		if tp != of && len(keys) > 0 {
			if err := done(); err != nil {
				return err
			}
		}
		if of = tp; s.takes(tp.Topic) {
			keys = append(keys, o.Key)
		}
		return nil
	})
	if err == nil && len(keys) > 0 {
		err = done()
	}
	return err
}

func (s *scan) readLog(ctx context.Context, tp kafka.TopicPartition, keys []string) error {
	var pieces []piece
	err := s.footers(ctx, keys, func(key string, o *bundle.Object) {
		entry, writer, ok := upload.Entry(key, o)
		if !ok {
			s.report.found(Lost, "%s is not the segment that its key says", key)
			return
		}
		s.seen(tp, o.Segment.State.Slot)
		s.state(&o.Segment.State)
		pieces = append(pieces, piece{entry, writer})
	})
	if err != nil || len(pieces) == 0 {
		return err
	}
	chosen, missing := chain(pieces)
	l := s.log(tp)
	l.segments, l.missing = int64(len(chosen)), missing
	l.base, l.end = chosen[0].Base, chosen[len(chosen)-1].End
	s.report.Segments += l.segments
	s.report.Replaced += int64(len(pieces)) - l.segments
	return s.enter(ctx, tp, chosen)
}

// enter writes a partition's entries into the scratch catalogue.
func (s *scan) enter(ctx context.Context, tp kafka.TopicPartition, segs []catalog.Segment) error {
	return within(ctx, writeTimeout, func(ctx context.Context) error { return s.scratch.Restorer().Segments(ctx, tp, segs) })
}

// readCheckpoints reads the footers of all checkpoints.
func (s *scan) readCheckpoints(ctx context.Context) error {
	var keys []string
	err := s.list(ctx, upload.CheckpointPrefix, func(o objstore.Info) error {
		if _, ok := upload.ParseCheckpointKey(o.Key); ok {
			keys = append(keys, o.Key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.footers(ctx, keys, func(key string, o *bundle.Object) {
		if o.Kind != bundle.KindCheckpoint {
			s.report.found(Lost, "%s is no checkpoint", key)
			return
		}
		s.session(o.Origin).nonce = o.Origin.Nonce
		s.takeCheckpoint(key, o)
	})
}

// readWAL reads the footers of all WAL objects below the sessions' ends.
func (s *scan) readWAL(ctx context.Context) error {
	err := s.list(ctx, wal.KeyPrefix, func(o objstore.Info) error {
		origin, ok := wal.ParseKey(o.Key)
		if !ok {
			return nil
		}
		at := s.session(origin)
		if o.Size == bundle.SealSize {
			at.seals = append(at.seals, origin.Seq)
		} else {
			at.objects = append(at.objects, origin.Seq)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.chooseCheckpoints()
	for _, at := range s.inOrder() {
		if len(at.seals) > 1 {
			err := bounded(ctx, func(ctx context.Context) (err error) {
				at.end, at.marked, err = wal.MarkedEnd(ctx, s.o.Store, at.id.Broker, at.id.Epoch)
				return err
			})
			if err != nil {
				return err
			}
		}
		if !at.marked && len(at.seals) > 0 {
			at.end = at.seals[0]
		}
		if err := s.readSession(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// readSession reads what a session's WAL has behind the checkpoints. Of a sealed
// session the nonce comes from the seal.
func (s *scan) readSession(ctx context.Context, at *session) error {
	keys := make([]string, 0, len(at.objects)+1)
	for _, seq := range at.objects {
		keys = append(keys, wal.Key(bundle.Origin{Broker: at.id.Broker, Epoch: at.id.Epoch, Seq: seq}))
	}
	if len(at.seals) > 0 {
		keys = append(keys, wal.Key(bundle.Origin{Broker: at.id.Broker, Epoch: at.id.Epoch, Seq: at.seals[0]}))
	}
	return s.footers(ctx, keys, func(key string, o *bundle.Object) {
		at.nonce = o.Origin.Nonce
		if o.Kind == bundle.KindWAL {
			s.takeWAL(at, o)
		}
	})
}
