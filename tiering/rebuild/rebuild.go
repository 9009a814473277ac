// Package rebuild makes a catalogue from the object store alone: for a cluster
// that has lost its metadata table, and for who reads a bucket without one.
//
//	manifest ─────▶ names, settings, log starts, epochs that were given out
//	seg/  footers ─▶ the sealed part of each log (chain)
//	ckpt/ footers ─▶ states and slices of the tails: the newest that make them up
//	wal/  footers ─▶ what lies behind the checkpoints, up to each session's end
//	                 │
//	                 ▼
//	scratch catalogue ─▶ read by the code that brokers recover with ─▶ report ─▶ WriteTo
//
// What counts: a segment or a checkpoint says the truth about its offsets, whether or
// not anything ever named it, since its writer had read only what was durable. A WAL object
// counts if it lies below its session's end: the seal, of several the one that was marked
// (wal.MarkEnd), or the lowest where none was, because then nothing below it was ever
// deleted; in a session without a seal the first gap. What a process put behind its seal was
// acknowledged by nobody and is passed over. The sessions that have no seal are
// entered as fenced: the first broker that starts seals them, as it would after a
// crash, so that nothing that a forgotten process still writes is acknowledged from then on, and what it has
// written before is in the log.
//
// What cannot be known is in the report. Nothing is deleted, and no object is written.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	defaultParallel = 32
	callTimeout     = 30 * time.Second
	writeTimeout    = 5 * time.Minute // of all items of one partition
	maxFindings     = 1000            // kept in a report
	attempts        = 4               // at a footer
	retryPause      = 200 * time.Millisecond

	// What may have been given out and left no trace is passed over by so much.
	spareSessions  = 1000
	spareEpochs    = 100
	spareProducers = 1 << 20
)

// Options say what to rebuild from.
type Options struct {
	Store    objstore.Store
	Parallel int // reads at a time; 0: 32
	// Slots is the number of slots where no manifest tells; 0: 256, or 4,096 if
	// one above that is seen.
	Slots int
	// Names are topics to take that the manifest does not have: they were made just before
	// the loss, or deleted long ago. "" lets a name be made up. Without a manifest all
	// topics are taken.
	Names map[kafka.TopicID]string
	// Skip are topics that are left out.
	Skip map[kafka.TopicID]bool
}

// Kind says what a finding means.
type Kind string

// The kinds of findings.
const (
	Lost      Kind = "lost"      // offsets that no object has
	Broken    Kind = "broken"    // a tail that does not fit together: no broker could recover it
	Undecided Kind = "undecided" // the objects do not say which of two things is true
	Note      Kind = "note"      // something to know; nothing is missing
)

// Finding is something that a person should know.
type Finding struct {
	Kind   Kind   `json:"kind"`
	Detail string `json:"detail"`
}

// String returns a line for a person.
func (f Finding) String() string { return string(f.Kind) + ": " + f.Detail }

// Report says what was found.
type Report struct {
	ClusterID   string       `json:"cluster_id"`
	Manifest    int64        `json:"manifest"` // its change; -1: there is none
	Slots       int          `json:"slots"`
	Topics      int          `json:"topics"`
	Partitions  int          `json:"partitions"`
	Segments    int64        `json:"segments"`    // chosen
	Replaced    int64        `json:"replaced"`    // segments that are there and not chosen
	Checkpoints int          `json:"checkpoints"` // that slots name
	WAL         int64        `json:"wal"`         // objects behind the checkpoints
	Sessions    int          `json:"sessions"`    // that will be ended by the first broker
	Kinds       map[Kind]int `json:"findings_by_kind"`
	Findings    []Finding    `json:"findings"` // the first 1,000
}

func (r *Report) found(k Kind, format string, args ...any) {
	r.Kinds[k]++
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, Finding{k, fmt.Sprintf(format, args...)})
	}
}

// Damaged tells whether anything is missing or could not be decided.
func (r *Report) Damaged() bool { return r.Kinds[Lost]+r.Kinds[Broken]+r.Kinds[Undecided] > 0 }

// Rebuilt is a catalogue that was rebuilt, in a scratch store.
type Rebuilt struct {
	Report  *Report
	Catalog *catalog.Catalog

	plan plan
}

// plan is all of a catalogue but for the segments.
type plan struct {
	cluster   catalog.Cluster
	topics    []catalog.Topic
	brokers   map[string]map[string]string
	starts    map[kafka.Slot]map[kafka.TopicPartition]kafka.Offset
	slots     []catalog.Slot
	sessions  []catalog.Session
	highest   map[int32]int64
	producers int64 // the next id
	lease     int64 // the highest epoch of compaction's
}

// Build rebuilds a catalogue into scratch, an empty store that takes the
// entries of all segments. Errors are those of the stores; what is wrong with the
// objects is in the report.
func Build(ctx context.Context, o Options, scratch meta.Store) (*Rebuilt, error) {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	s := newScan(o, catalog.New(scratch))
	for _, step := range []func(context.Context) error{s.readManifest, s.readSegments, s.readCheckpoints, s.readWAL} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("rebuild the catalogue: %w", err)
		}
	}
	s.nameTopics()
	s.chooseTails()
	if err := s.settleLogs(ctx); err != nil {
		return nil, fmt.Errorf("rebuild the catalogue: %w", err)
	}
	r := &Rebuilt{Report: s.report, Catalog: s.scratch, plan: s.plan}
	if err := r.plan.write(ctx, s.scratch.Restorer()); err != nil {
		return nil, fmt.Errorf("rebuild the catalogue: %w", err)
	}
	if err := s.proveTails(ctx); err != nil {
		return nil, fmt.Errorf("rebuild the catalogue: %w", err)
	}
	return r, nil
}

// WriteTo writes the catalogue where it is missing. Until it has ended the one there
// is unusable; after a kill it is run again. catalog.ErrExists: there is one, and
// replace is false.
func (r *Rebuilt) WriteTo(ctx context.Context, to *catalog.Catalog, replace bool) error {
	w := to.Restorer()
	err := bounded(ctx, func(ctx context.Context) error { return w.Begin(ctx, replace) })
	if err == nil {
		err = r.copySegments(ctx, w)
	}
	if err == nil {
		err = r.plan.write(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("write the catalogue: %w", err)
	}
	return nil
}

func (r *Rebuilt) copySegments(ctx context.Context, w catalog.Restorer) error {
	for _, t := range r.plan.topics {
		for p := range t.Partitions {
			tp := kafka.TopicPartition{Topic: t.ID, Partition: p}
			err := within(ctx, writeTimeout, func(ctx context.Context) error {
				segs, err := r.Catalog.Segments(ctx, tp, 0, 0)
				if err != nil {
					return err
				}
				return w.Segments(ctx, tp, segs)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes all but the segments; the cluster's item, with which the
// catalogue becomes usable, last.
func (p *plan) write(ctx context.Context, w catalog.Restorer) error {
	steps := []func(context.Context) error{
		func(ctx context.Context) error { return w.Topics(ctx, p.topics) },
		func(ctx context.Context) error { return w.Brokers(ctx, p.brokers) },
		func(ctx context.Context) error { return w.Slots(ctx, p.slots) },
		func(ctx context.Context) error { return w.Sessions(ctx, p.highest, p.sessions) },
		func(ctx context.Context) error { return w.ProducerIDs(ctx, p.producers) },
		func(ctx context.Context) error { return w.LeaseEpoch(ctx, compactionJob, p.lease) },
	}
	for n := range kafka.Slot(p.cluster.Slots) {
		steps = append(steps, func(ctx context.Context) error { return w.LogStarts(ctx, n, p.starts[n]) })
	}
	steps = append(steps, func(ctx context.Context) error { return w.Finish(ctx, p.cluster) })
	for _, step := range steps {
		if err := within(ctx, writeTimeout, step); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) readManifest(ctx context.Context) error {
	m, err := manifest.Newest(ctx, s.o.Store)
	if errors.Is(err, objstore.ErrNotFound) {
		s.report.found(Note, "no manifest is there: names and settings of topics, log starts and the cluster's id are not known")
		return nil
	}
	if err != nil {
		return err
	}
	s.manifest, s.report.Manifest = m, m.Change
	for _, id := range m.Deleted {
		if t, err := kafka.ParseTopicID(id); err == nil {
			s.deleted[t] = true
		}
	}
	for _, t := range m.Topics {
		id, err := kafka.ParseTopicID(t.ID)
		if err != nil {
			return fmt.Errorf("read manifest: %w", err)
		}
		if !s.deleted[id] && !s.o.Skip[id] {
			s.topics[id] = &catalog.Topic{Name: t.Name, ID: id, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, Configs: t.Configs}
		}
	}
	for _, at := range m.Starts {
		if id, err := kafka.ParseTopicID(at.Topic); err == nil {
			s.log(kafka.TopicPartition{Topic: id, Partition: at.Partition}).start = at.Offset
		}
	}
	for b, e := range m.Sessions {
		s.plan.highest[b] = e
	}
	for slot, e := range m.Epochs {
		s.epoch(slot, kafka.LeaderEpoch(e))
	}
	s.plan.producers, s.plan.brokers = m.ProducerIDs, m.Brokers
	return nil
}

func bounded(ctx context.Context, fn func(context.Context) error) error {
	return within(ctx, callTimeout, fn)
}

func within(ctx context.Context, d time.Duration, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return fn(ctx)
}
