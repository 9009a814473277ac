// Package verify checks that a cluster's catalogue and its object store fit
// together, and that every byte that the catalogue names is as it was written.
//
//	catalogue ─▶ entries of each partition ─▶ segments: gaps, overlaps, checksums, counts
//	slot items ─▶ checkpoints, spans ───────▶ tails: holes, seals, what is next
//	listing ────▶ every object ─────────────▶ named, on its way, or litter
//
// It works beside running brokers: what looks wrong is looked at again, and
// counts only if the catalogue still says what it said. Damage is what readers would
// miss. Litter costs money and nothing else: killed writers leave it. Repair
// deletes the litter that nobody can ever name again, by the rule that a sweep follows.
package verify

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	maxFindings = 10_000 // kept of each report
	callTimeout = 30 * time.Second
	pageSize    = 1000 // entries or objects read at once
)

// Options say what to verify.
type Options struct {
	Catalog  *catalog.Catalog
	Store    objstore.Store
	Topics   []string // whose segments are read; none: all
	Quick    bool     // reads footers, not records
	Parallel int      // objects read at a time; 0: 4
}

// Kind says what is wrong.
type Kind string

// The kinds of findings. All but Litter are damage.
const (
	Missing Kind = "missing" // an object that is named is not there
	Corrupt Kind = "corrupt" // an object is not what its checksums or its entry say
	Gap     Kind = "gap"     // offsets are nowhere
	Overlap Kind = "overlap" // offsets are in two segments
	Invalid Kind = "invalid" // items of the catalogue contradict each other
	Litter  Kind = "litter"  // an object that nothing names
)

// Finding is one thing that is wrong.
type Finding struct {
	Kind      Kind   `json:"kind"`
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	Offset    *int64 `json:"offset,omitempty"`
	Key       string `json:"key,omitempty"`
	Bytes     int64  `json:"bytes,omitempty"` // of litter
	Safe      bool   `json:"safe,omitempty"`  // litter that Repair deletes
	Detail    string `json:"detail"`
}

// String returns a line for a person.
func (f Finding) String() string {
	s := string(f.Kind) + ":"
	if f.Topic != "" {
		s += " " + f.Topic
	}
	if f.Partition != nil {
		s += fmt.Sprint("-", *f.Partition)
	}
	if f.Offset != nil {
		s += fmt.Sprint(" at ", *f.Offset)
	}
	if f.Key != "" {
		s += " " + f.Key
	}
	return s + ": " + f.Detail
}

// Report is what a verification found.
type Report struct {
	Topics     int       `json:"topics"`
	Partitions int       `json:"partitions"`
	Segments   int64     `json:"segments"`
	Records    int64     `json:"records"` // in segments
	Objects    int64     `json:"objects"`
	Bytes      int64     `json:"bytes"` // of the objects
	Damage     int64     `json:"damage"`
	Litter     int64     `json:"litter"`
	Findings   []Finding `json:"findings"` // the first 10,000
}

// Progress counts while a verification runs.
type Progress struct{ Objects, Bytes atomic.Int64 }

// run is one verification.
type run struct {
	Options
	progress *Progress

	mu     sync.Mutex
	report *Report
}

func (v *run) found(f Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.Kind == Litter {
		v.report.Litter++
	} else {
		v.report.Damage++
	}
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, f)
	}
}

// Run verifies. The error is that of a store that could not be read; what is
// wrong is in the report. progress may be nil.
func Run(ctx context.Context, o Options, progress *Progress) (*Report, error) {
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if progress == nil {
		progress = new(Progress)
	}
	v := &run{Options: o, progress: progress, report: &Report{Findings: []Finding{}}}
	if err := bounded(ctx, o.Catalog.Refresh); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	cluster, err := get(ctx, o.Catalog.ReadCluster)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	for _, step := range []func(context.Context, catalog.Cluster) error{v.partitions, v.objects, v.tails} {
		if err := step(ctx, cluster); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
	}
	return v.report, nil
}

func bounded(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return fn(ctx)
}

func get[T any](ctx context.Context, fn func(context.Context) (T, error)) (v T, err error) {
	err = bounded(ctx, func(ctx context.Context) error {
		v, err = fn(ctx)
		return err
	})
	return v, err
}

func ptr[T any](v T) *T { return &v }
