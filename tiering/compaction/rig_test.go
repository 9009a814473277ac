package compaction

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/tiertest"
)

// rig is a log that an owner writes and a job compacts, and the model of it.
type rig struct {
	t     tiertest.T
	ctx   context.Context
	owner *tiertest.Owner
	log   *tiertest.Log
	job   *Job
	cfg   *config.Broker

	segmentBytes int64 // of groups; 0: as in the settings
	atMost       int   // entries that are left of a log that keeps its records; 0: it is compacted

	now    time.Time
	model  model
	open   map[int64]int // open transactions by producer
	txns   int
	seq    map[int64]int32
	sealed bundle.State // at the end of the newest segment
}

func newRig(ctx context.Context, t tiertest.T, settings map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, ctx: ctx, now: time.Now(), open: make(map[int64]int), seq: make(map[int64]int32)}
	r.model.aborted = make(map[int]bool)
	all := map[string]string{"log.cleanup.policy": "compact", "log.cleaner.min.cleanable.ratio": "0", "log.cleaner.delete.retention.ms": "1000"}
	for k, v := range settings {
		all[k] = v
	}
	var err error
	r.cfg, err = config.ParseBroker(all)
	r.must(err)
	r.owner = tiertest.New(ctx, t, map[string]int32{"c": 1})
	r.log = r.owner.Logs[0]
	r.job = r.newJob("broker-1")
	return r
}

func (r *rig) newJob(holder string) *Job {
	r.t.Helper()
	j, err := New(Options{
		Catalog: catalog.New(r.owner.Meta), Store: r.owner.Store, Slots: tiertest.Slots, Holder: holder,
		Config: func() *config.Broker { return r.cfg },
	})
	r.must(err)
	return j
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v", err)
	}
}

// kv is a record to be produced: a nil key or value is null.
type kv struct{ key, value []byte }

// produce appends a batch. A producer id of 100 or more writes in a
// transaction, others below are idempotent, -1 is none.
func (r *rig) produce(codec record.Codec, pid int64, at int64, recs ...kv) {
	r.t.Helper()
	b := record.NewBuilder(codec)
	b.ProducerID = pid
	m := modelBatch{base: r.end(), pid: pid}
	m.last = m.base + kafka.Offset(len(recs)) - 1
	if pid >= 0 {
		b.ProducerEpoch, b.BaseSequence = 0, r.seq[pid]
		r.seq[pid] += int32(len(recs))
	}
	if pid >= 100 {
		b.Transactional = true
		if r.open[pid] == 0 {
			r.txns++
			r.open[pid] = r.txns
		}
		m.txn = r.open[pid]
	}
	for i, rec := range recs {
		b.Append(at+int64(i), rec.key, rec.value, record.KV{Key: "h"})
		m.records = append(m.records, modelRecord{
			off: m.base + kafka.Offset(i), at: at + int64(i), key: string(rec.key), value: string(rec.value) + ",h", noKey: rec.key == nil, tombstone: rec.value == nil,
		})
	}
	out, err := b.Bytes()
	r.must(err)
	r.owner.Append(r.log, out)
	r.model.batches = append(r.model.batches, m)
}

// marker ends a transaction, if one is open.
func (r *rig) marker(pid int64, commit bool) {
	r.t.Helper()
	if r.open[pid] == 0 {
		return
	}
	b, err := record.Marker(pid, 0, commit, 1, r.now)
	r.must(err)
	m := parse(b)
	off := r.end()
	m.base, m.last, m.txn, m.commit = off, off, r.open[pid], commit
	m.records[0].off = off
	r.owner.Append(r.log, b)
	r.model.batches = append(r.model.batches, m)
	r.model.aborted[m.txn] = !commit
	r.open[pid] = 0
}

func (r *rig) end() kafka.Offset {
	if n := len(r.model.batches); n > 0 {
		return max(r.model.batches[n-1].last+1, r.log.End())
	}
	return r.log.End()
}

func (r *rig) seal() {
	r.t.Helper()
	r.owner.Flush()
	if len(r.log.Tail()) == 0 {
		return
	}
	r.owner.Seal(r.log)
	r.sealed = bundle.State{}
	for _, b := range r.log.Batches {
		m, err := bundle.Describe(b)
		r.must(err)
		recovery.Fold(&r.sealed, m)
	}
}

// turn lets the job clean the log, pass by pass, and the model with it. It
// returns the number of passes.
func (r *rig) turn() int {
	r.t.Helper()
	lease, err := r.owner.Cat.AcquireLease(r.ctx, JobName, "broker-1", time.Minute)
	r.must(err)
	t := &turn{Job: r.job, lease: lease, kept: time.Now()}
	r.must(r.job.o.Catalog.Refresh(r.ctx))
	l := target{topic: &r.log.Topic, tp: r.log.TP, cfg: config.EffectiveTopic(r.cfg, nil)}
	if r.segmentBytes > 0 {
		l.cfg.SegmentBytes = r.segmentBytes
	}
	passes := 0
	for ; ; passes++ {
		p, d, err := t.prepare(r.ctx, l, r.now)
		r.must(err)
		if !d.Go {
			break
		}
		if d.To > r.sealed.LastStable || p.rules.tip != r.sealed.NextOffset-1 {
			r.t.Fatalf("plan %+v behind the last stable offset %d, tip %d", d, r.sealed.LastStable, p.rules.tip)
		}
		end, err := p.run(r.ctx, d)
		r.must(err)
		if end <= d.From {
			r.t.Fatalf("pass from %d ended at %d", d.From, end)
		}
		r.model.clean(end, p.rules.tip, &r.sealed, p.rules.now, p.rules.keep)
	}
	r.must(r.job.o.Catalog.ReleaseLease(r.ctx, t.lease, 0))
	return passes
}

// entries returns the log's entries.
func (r *rig) entries() []catalog.Segment {
	r.t.Helper()
	segs, err := r.owner.Cat.Segments(r.ctx, r.log.TP, 0, 0)
	r.must(err)
	return segs
}

// check compares all that can be read of the sealed part with the model, from
// each offset, and each entry with its object.
func (r *rig) check() {
	r.t.Helper()
	segs := r.entries()
	for i, s := range segs {
		if i > 0 && s.Base != segs[i-1].End {
			r.t.Fatalf("entry from %d follows one that ends at %d", s.Base, segs[i-1].End)
		}
		r.must(cold.VerifySegment(r.ctx, r.owner.Store, s))
	}
	if len(segs) == 0 {
		return
	}
	newest := segs[len(segs)-1]
	g, err := cold.ReadFooter(r.ctx, r.owner.Store, newest)
	r.must(err)
	want := r.sealed
	want.Aborted, g.State.Aborted = nil, nil
	want.TP, want.Slot, want.SealedEnd = g.State.TP, g.State.Slot, g.State.SealedEnd
	if diff := cmp.Diff(want, g.State); diff != "" {
		r.t.Fatalf("state at the end (-want +got):\n%s", diff)
	}
	cache, err := objcache.New(objcache.Options{Store: r.owner.Store})
	r.must(err)
	reader, err := cold.New(cold.Options{Catalog: r.owner.Cat, Cache: cache, Store: r.owner.Store, RAMBytes: 1 << 20})
	r.must(err)
	for from := r.log.Start; from < newest.End; from++ {
		got := model{anyTime: r.model.anyTime}
		for at := from; at < newest.End; {
			bufs, next, err := reader.Read(r.ctx, r.log.TP, at, math.MaxInt64, nil)
			if errors.Is(err, objstore.ErrNotFound) {
				break
			}
			r.must(err)
			for _, buf := range bufs {
				for b, err := range record.Split(buf) {
					r.must(err)
					got.batches = append(got.batches, parse(b))
				}
			}
			at = next
		}
		want := model{batches: r.model.batches, anyTime: r.model.anyTime}
		for i, b := range want.batches {
			if b.base >= newest.End {
				want.batches = want.batches[:i]
				break
			}
		}
		if diff := cmp.Diff(want.lines(from), got.lines(from)); diff != "" {
			r.t.Fatalf("read from %d (-want +got):\n%s", from, diff)
		}
		if from == r.log.Start {
			r.committed(reader, got, g.State.LastStable)
		}
	}
}

// committed checks that a read_committed reader is told of the aborted records
// that are left, and of no other ones.
func (r *rig) committed(reader *cold.Reader, got model, stable kafka.Offset) {
	r.t.Helper()
	txns, err := reader.Aborted(r.ctx, r.log.TP, 0, stable)
	r.must(err)
	txnOf := make(map[kafka.Offset]int)
	for _, b := range r.model.batches {
		txnOf[b.base] = b.txn
	}
	for _, b := range got.batches {
		if b.control || b.last >= stable || len(b.records) == 0 {
			continue
		}
		said := false
		for _, a := range txns {
			said = said || a.ProducerID == b.pid && a.FirstOffset <= b.base && b.last < a.LastOffset
		}
		if aborted := r.model.aborted[txnOf[b.base]]; aborted != said {
			r.t.Fatalf("batch at %d: aborted %v, readers are told %v", b.base, aborted, said)
		}
	}
}

func text(s string) []byte {
	if s == "null" {
		return nil
	}
	return []byte(s)
}

func summary(segs []catalog.Segment) []string {
	var all []string
	for _, s := range segs {
		all = append(all, fmt.Sprintf("%d-%d %s cleaned %d records %d", s.Base, s.End, s.Key, s.Cleaned, s.Records))
	}
	return all
}
