package verify

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/compaction"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

// judge says what an object is for, by what was read of the catalogue after it
// was listed: first the sessions and slots, then the references. So an object
// that has no reference, of a writer that could not make one any more, never gets one.
type judge struct {
	sessions map[catalog.SessionID]catalog.Session
	highest  map[int32]int64 // session epoch of each broker
	owners   map[catalog.SessionID]bool
	keep     map[catalog.SessionID]int64 // the first WAL object of a sealed session that a slot needs
	named    map[string]bool             // checkpoints and segments
	deleted  map[kafka.TopicID]bool      // topics that are being cleaned up
	dead     map[string]bool             // noted to be deleted
	lease    int64                       // the epoch of compaction's
}

type verdict struct {
	read   bool // it is in use, and is to be verified
	litter bool
	safe   bool // to delete
	why    string
}

func newJudge(ctx context.Context, cat *catalog.Catalog, page []objstore.Info) (*judge, error) {
	j := &judge{
		sessions: make(map[catalog.SessionID]catalog.Session), owners: make(map[catalog.SessionID]bool),
		keep: make(map[catalog.SessionID]int64), named: make(map[string]bool), deleted: make(map[kafka.TopicID]bool), dead: make(map[string]bool),
	}
	for _, read := range []func(context.Context, *catalog.Catalog) error{j.readSessions, j.readSlots, j.readJobs, j.readTombstones} {
		if err := bounded(ctx, func(ctx context.Context) error { return read(ctx, cat) }); err != nil {
			return nil, err
		}
	}
	return j, j.readSegments(ctx, cat, page)
}

func (j *judge) readSessions(ctx context.Context, cat *catalog.Catalog) (err error) {
	if j.highest, err = cat.SessionEpochs(ctx); err != nil {
		return err
	}
	all, err := cat.AllSessions(ctx)
	for _, s := range all {
		j.sessions[s.ID] = s
		if s.State == catalog.Sealed {
			j.keep[s.ID] = s.SealedAt
		}
	}
	return err
}

func (j *judge) readSlots(ctx context.Context, cat *catalog.Catalog) error {
	slots, err := cat.Slots(ctx)
	for _, s := range slots {
		j.owners[s.Owner] = true
		for _, c := range s.Checkpoints {
			j.named[c.Key] = true
		}
		for _, sp := range s.Spans {
			if n, ok := j.keep[sp.Session]; ok {
				j.keep[sp.Session] = min(n, sp.From)
			}
		}
	}
	return err
}

// readJobs reads how far compaction's lease is, and what waits to be deleted.
func (j *judge) readJobs(ctx context.Context, cat *catalog.Catalog) error {
	lease, err := cat.Lease(ctx, compaction.JobName)
	if err != nil {
		return err
	}
	j.lease = lease.Epoch
	dead, err := cat.AllDeadObjects(ctx)
	for _, d := range dead {
		for _, key := range d.Keys {
			j.dead[key] = true
		}
	}
	return err
}

func (j *judge) readTombstones(ctx context.Context, cat *catalog.Catalog) error {
	topics, err := cat.DeletedTopics(ctx)
	for _, t := range topics {
		j.deleted[t.ID] = true
	}
	return err
}

// readSegments reads the entries that can name a page's segments. An entry may
// begin behind its object, whose first records were removed.
func (j *judge) readSegments(ctx context.Context, cat *catalog.Catalog, page []objstore.Info) error {
	type run struct{ from, to kafka.Offset }
	runs := make(map[kafka.TopicPartition]run)
	for _, info := range page {
		if tp, base, _, ok := upload.ParseSegmentKey(info.Key); ok {
			r, seen := runs[tp]
			if !seen {
				r.from = base
			}
			r.to = max(r.to, base)
			runs[tp] = r
		}
	}
	for tp, r := range runs {
		for from := r.from; ; {
			segs, err := get(ctx, func(ctx context.Context) ([]catalog.Segment, error) {
				return cat.Segments(ctx, tp, from, pageSize)
			})
			if err != nil {
				return err
			}
			for _, s := range segs {
				j.named[s.Key] = true
				from = s.End
			}
			if len(segs) < pageSize || segs[len(segs)-1].Base > r.to {
				break
			}
		}
	}
	return nil
}

func (j *judge) judge(info objstore.Info) verdict {
	if o, ok := wal.ParseKey(info.Key); ok {
		return j.walObject(o, info)
	}
	o, ok := upload.ParseCheckpointKey(info.Key)
	if ok {
		if j.named[info.Key] {
			return verdict{read: true}
		}
		return j.written(o, "a checkpoint that no slot names")
	}
	tp, _, o, ok := upload.ParseSegmentKey(info.Key)
	switch {
	case ok && (j.named[info.Key] || j.dead[info.Key] || j.deleted[tp.Topic]):
		return verdict{} // verified with its entry, or going
	case ok:
		return j.written(o, "a segment that no entry names")
	}
	return verdict{litter: true, why: "a key that no writer of this version makes"}
}

// written judges an object without a reference by its writer.
func (j *judge) written(o bundle.Origin, why string) verdict {
	if o.Broker == upload.JobBroker {
		if o.Epoch >= j.lease {
			return verdict{} // on its way
		}
		return verdict{litter: true, safe: true, why: why + "; its writer's lease has passed on"}
	}
	id := catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}
	s, ok := j.sessions[id]
	switch {
	case ok && s.State == catalog.Live:
		return verdict{} // on its way, or the owner's to remove
	case ok && s.State == catalog.Sealed && !j.owners[id], !ok && j.ended(id):
		return verdict{litter: true, safe: true, why: why + "; its writer's session is over"}
	case ok:
		return verdict{litter: true, why: why + fmt.Sprintf("; its writer's session is %s and not given up yet", s.State)}
	}
	return verdict{litter: true, why: why + "; its writer's session is unknown: is it another cluster's?"}
}

// ended tells whether a session without an item was one of this cluster.
func (j *judge) ended(id catalog.SessionID) bool {
	highest, ok := j.highest[id.Broker]
	return ok && id.Epoch <= highest
}

// walObject judges an object of a WAL:
//
//	sealed   [ trimmed ][ no slot needs it ][ named ][ seal ][ came too late ]
//	           litter      litter            ▲ keep   for ever  litter
func (j *judge) walObject(o bundle.Origin, info objstore.Info) verdict {
	id := catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}
	s, ok := j.sessions[id]
	switch {
	case info.Size == bundle.SealSize:
		return verdict{read: true} // seals stay for ever, stray ones too
	case !ok && j.ended(id):
		return verdict{litter: true, safe: true, why: "of the WAL of a session that is forgotten"}
	case !ok:
		return verdict{litter: true, why: "of the WAL of a session that is unknown: is it another cluster's?"}
	case s.State != catalog.Sealed:
		return verdict{read: o.Seq > s.Trim}
	case o.Seq > s.SealedAt:
		return verdict{litter: true, safe: true, why: "it came behind the seal"}
	case o.Seq < j.keep[id]:
		return verdict{litter: true, safe: true, why: "of the WAL of a session that is over, and no slot needs it"}
	}
	return verdict{read: true}
}
