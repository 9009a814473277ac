// Package sweep deletes the objects that nothing names and that nobody can ever
// name again: what killed writers leave.
//
// A reference is always younger than its object and needs its writer to be in
// office. So the writers' end is read first, then the references, and what
// is then of an ended writer and without a reference stays so for ever:
//
//	sessions, job leases ─▶ slots ─▶ trims recorded ─▶ listing, page by page ─▶ entries of the page
//	                                                                             │ nothing names it
//	                                                   forgotten ◀─ deleted ◀─ grace, for readers
//
// The facts last, so a sweep that is paused, overtaken or run twice deletes
// nothing else than it would have. A session's own process removes what it
// unreferences while it lives; retention and compaction note what they unreference,
// and delete it. Seals stay: without one a put that was long on the way would succeed.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/upload"
)

// JobName names the job's lease.
const JobName = "sweep"

const (
	pageSize    = 1000             // objects or entries read at once
	maxHeld     = 50               // lots of up to pageSize keys that wait for their deletion
	maxNotes    = 1000             // notes of dead objects that are known to a pass
	uploadAge   = 24 * time.Hour   // after which an unfinished upload is given up
	callTimeout = 30 * time.Second // of one call
)

// Uploads is a store that keeps what unfinished uploads have sent.
type Uploads interface {
	// AbortUploads gives up the uploads of keys that start with prefix and began
	// before a moment, and returns their number. An upload that goes on after that fails and is begun anew.
	AbortUploads(ctx context.Context, prefix string, before time.Time) (int, error)
}

// Options are what a sweep needs.
type Options struct {
	Catalog *catalog.Catalog
	Store   objstore.Store // one that is Uploads too is rid of unfinished ones
	// Grace returns the time from finding an object to deleting it: readers may
	// still hold an old reference. Nil: none.
	Grace   func() time.Duration
	Deleted func(o objstore.Info, why string) // an object has been deleted; nil: nobody cares

	// Of a Job only:
	Holder     string               // who runs it: a broker, which has no other such job, or catalog.FunctionHolder
	Interval   func() time.Duration // between two passes; nil: each turn begins or goes on with one
	Reserve    time.Duration        // how long the work stays with Holder behind a turn; 0: three intervals
	Logger     *slog.Logger         // nil: discard
	Registerer prometheus.Registerer
}

func (o *Options) setDefaults() {
	if o.Grace == nil {
		o.Grace = func() time.Duration { return 0 }
	}
	if o.Deleted == nil {
		o.Deleted = func(objstore.Info, string) {}
	}
	if o.Interval == nil {
		o.Interval = func() time.Duration { return 0 }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats are what a sweep did.
type Stats struct {
	Looked, Objects int64 // listed; deleted
	Bytes           int64 // of the deleted
	Uploads         int   // given up
	Sessions        int   // sealed ones, forgotten
	Unfinished      bool  // the time was over before the pass
}

// All makes one whole pass, without a lease: two at once do no harm.
func All(ctx context.Context, o Options) (Stats, error) {
	o.setDefaults()
	p := pass{Options: o}
	err := p.run(ctx)
	return p.stats, err
}

// pass goes over all objects behind a key.
type pass struct {
	Options
	after string                      // all up to here is done
	keep  func(context.Context) error // records that now and then; nil: nobody does
	whole bool                        // all objects were gone over
	stats Stats
	held  []lot
}

func (p *pass) run(ctx context.Context) error {
	if err := p.mine(ctx); err != nil {
		return err
	}
	writers, err := ReadWriters(ctx, p.Catalog)
	if err != nil {
		return err
	}
	if err := writers.trim(ctx, p.Catalog, p.Store); err != nil {
		return err
	}
	at := p.after
	if n := len(p.held); n > 0 {
		at = p.held[n-1].upTo
	}
	for more := true; more; {
		page, err := get(ctx, func(ctx context.Context) ([]objstore.Info, error) { return p.Store.List(ctx, "", at, pageSize) })
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		if more = len(page) == pageSize; len(page) == 0 {
			break
		}
		at = page[len(page)-1].Key
		if err := p.page(ctx, writers, page); err != nil {
			return err
		}
		for len(p.held) > 0 && (len(p.held) > maxHeld || !time.Now().Before(p.held[0].due)) {
			if err := p.delete(ctx); err != nil {
				return err
			}
		}
		if err := p.record(ctx); err != nil {
			return err
		}
	}
	for len(p.held) > 0 {
		if err := p.delete(ctx); err != nil {
			return err
		}
	}
	p.whole = true // whatever becomes of the rest
	p.stats.Sessions, err = writers.forget(ctx, p.Catalog)
	return errors.Join(err, p.uploads(ctx))
}

// mine sees to it that nothing of another cluster is deleted, whose objects would be litter here.
func (p *pass) mine(ctx context.Context) error {
	cl, err := get(ctx, p.Catalog.ReadCluster)
	if err != nil {
		return err
	}
	return manifest.Check(ctx, p.Store, cl.ID)
}

// page holds what may be deleted of a page for its time.
func (p *pass) page(ctx context.Context, w *Writers, page []objstore.Info) error {
	judge, err := w.Judge(ctx, p.Catalog, page)
	if err != nil {
		return err
	}
	next := lot{due: time.Now().Add(p.Grace()), upTo: page[len(page)-1].Key}
	for _, o := range page {
		if v := judge.Judge(o); v.Safe && w.trimmed(o) {
			next.objects, next.why = append(next.objects, o), append(next.why, v.Why)
		}
	}
	p.stats.Looked += int64(len(page))
	switch last := len(p.held) - 1; {
	case len(next.objects) > 0:
		p.held = append(p.held, next)
	case last >= 0:
		p.held[last].upTo = next.upTo
	default:
		p.after = next.upTo
	}
	return nil
}

func (p *pass) record(ctx context.Context) error {
	if p.keep == nil {
		return nil
	}
	return p.keep(ctx)
}

func (p *pass) uploads(ctx context.Context) error {
	store, ok := p.Store.(Uploads)
	if !ok {
		return nil
	}
	before := time.Now().Add(-uploadAge)
	for _, prefix := range []string{upload.SegmentPrefix, upload.CheckpointPrefix} { // others' are not ours to give up
		n, err := get(ctx, func(ctx context.Context) (int, error) { return store.AbortUploads(ctx, prefix, before) })
		if p.stats.Uploads += n; err != nil {
			return fmt.Errorf("give unfinished uploads of %s up: %w", prefix, err)
		}
	}
	return nil
}

// bounded gives one call its deadline.
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
