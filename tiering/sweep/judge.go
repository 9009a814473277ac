package sweep

import (
	"context"
	"fmt"
	"strings"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

// Judge says what the objects of one page of a listing are for.
type Judge struct {
	*Writers
	segments map[string]bool // that entries name, of those that the page asks for
}

// Verdict is what an object is for.
type Verdict struct {
	InUse  bool // it is of a WAL or a checkpoint that is in use
	Litter bool // nothing names it
	Safe   bool // nor ever will
	Why    string
}

// Judge reads the references that a page's objects can have. The page was
// listed and the writers were read before.
func (w *Writers) Judge(ctx context.Context, cat *catalog.Catalog, page []objstore.Info) (*Judge, error) {
	j := &Judge{Writers: w, segments: make(map[string]bool)}
	type run struct{ from, to kafka.Offset }
	runs := make(map[kafka.TopicPartition]run)
	for _, info := range page {
		tp, base, o, ok := upload.ParseSegmentKey(info.Key)
		if !ok || w.deleted[tp.Topic] || !w.written(o, "").Litter {
			continue
		}
		r, seen := runs[tp]
		if !seen {
			r.from = base
		}
		r.to = max(r.to, base)
		runs[tp] = r
	}
	for tp, r := range runs {
		if err := j.readEntries(ctx, cat, tp, r.from, r.to); err != nil {
			return nil, err
		}
	}
	return j, nil
}

// readEntries reads the entries that can name objects with these first offsets.
// An entry may begin behind its object's first offset, if those records were removed.
func (j *Judge) readEntries(ctx context.Context, cat *catalog.Catalog, tp kafka.TopicPartition, from, to kafka.Offset) error {
	for {
		entries, err := get(ctx, func(ctx context.Context) ([]catalog.Segment, error) {
			return cat.Segments(ctx, tp, from, pageSize)
		})
		if err != nil {
			return err
		}
		for _, s := range entries {
			j.segments[s.Key] = true
			from = s.End
		}
		if len(entries) < pageSize || entries[len(entries)-1].Base > to {
			return nil
		}
	}
}

// Judge judges an object of the page.
func (j *Judge) Judge(info objstore.Info) Verdict {
	if o, ok := wal.ParseKey(info.Key); ok {
		return j.walObject(o, info)
	}
	if o, ok := upload.ParseCheckpointKey(info.Key); ok {
		if j.named[info.Key] {
			return Verdict{InUse: true}
		}
		return j.written(o, "a checkpoint that no slot names")
	}
	tp, _, o, ok := upload.ParseSegmentKey(info.Key)
	switch {
	case ok && (j.segments[info.Key] || j.named[info.Key] || j.deleted[tp.Topic]):
		return Verdict{} // in a log, or going
	case ok:
		return j.written(o, "a segment that no entry names")
	}
	if strings.HasPrefix(info.Key, wal.EndPrefix) || strings.HasPrefix(info.Key, manifest.KeyPrefix) {
		return Verdict{} // for who rebuilds a catalogue
	}
	return Verdict{Litter: true, Why: "a key that no writer of this version makes"}
}

// written judges an object without a reference by who wrote it: a session, or
// compaction under a lease.
func (w *Writers) written(o bundle.Origin, why string) Verdict {
	id := catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}
	s, ok := w.sessions[id]
	switch {
	case o.Broker == upload.JobBroker && o.Epoch >= w.lease, ok && s.State == catalog.Live:
		return Verdict{} // on its way, or the owner's to remove
	case o.Broker == upload.JobBroker:
		return Verdict{Litter: true, Safe: true, Why: why + "; its writer's lease has passed on"}
	case ok && s.State == catalog.Sealed && !w.owners[id], !ok && w.forgotten(id):
		return Verdict{Litter: true, Safe: true, Why: why + "; its writer's session is over"}
	case ok:
		return Verdict{Litter: true, Why: why + fmt.Sprintf("; its writer's session is %s and not given up yet", s.State)}
	}
	return Verdict{Litter: true, Why: why + "; its writer's session is unknown: is it another cluster's?"}
}

// walObject judges an object of a WAL:
//
//	sealed   [ trimmed ][ no slot needs it ][ named ][ seal ][ came too late ]
//	           litter      litter            ▲ keep   for ever  litter
func (w *Writers) walObject(o bundle.Origin, info objstore.Info) Verdict {
	id := catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}
	s, ok := w.sessions[id]
	switch {
	case info.Size == bundle.SealSize:
		return Verdict{InUse: true} // seals stay for ever, stray ones too
	case !ok && w.forgotten(id):
		return Verdict{Litter: true, Safe: true, Why: "of the WAL of a session that is forgotten"}
	case !ok:
		return Verdict{Litter: true, Why: "of the WAL of a session that is unknown: is it another cluster's?"}
	case s.State != catalog.Sealed:
		return Verdict{InUse: o.Seq > s.Trim}
	case o.Seq > s.SealedAt:
		return Verdict{Litter: true, Safe: true, Why: "it came behind the seal"}
	case o.Seq < w.keep[id]:
		return Verdict{Litter: true, Safe: true, Why: "of the WAL of a session that is over, and no slot needs it"}
	}
	return Verdict{InUse: true}
}
