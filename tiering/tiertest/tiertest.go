// Package tiertest writes logs for the tests of those who read them: an Owner
// does to the ports what a broker does, one step at a time, with the code that
// a broker uses, and remembers what the logs have.
package tiertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

// T is a test, of testing or of rapid.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Slots is the number of slots of an Owner's cluster.
const Slots = 4

// Owner is a broker that owns all slots. It is used by one goroutine; readers
// use Store and Meta beside it.
type Owner struct {
	Store *memstore.Store // nil with NewOn
	Meta  *memmeta.Store  // nil with NewOn
	Cat   *catalog.Catalog
	Logs  []*Log

	store   objstore.Store
	t       T
	ctx     context.Context
	cache   *objcache.Cache
	count   atomic.Int64
	session catalog.Session
	slots   map[kafka.Slot]catalog.Slot
	seq     int64 // of the next WAL object
	pending []bundle.SliceData
}

// Log is a partition's log.
type Log struct {
	Topic   catalog.Topic
	TP      kafka.TopicPartition
	Start   kafka.Offset
	Batches [][]byte // all that were ever flushed, from offset 0

	slot  kafka.Slot
	tip   kafka.Offset // behind what was appended
	state bundle.State
	hot   []bundle.Ref
}

// End returns the durable end of the log.
func (l *Log) End() kafka.Offset { return l.state.NextOffset }

// Stable returns the last stable offset.
func (l *Log) Stable() kafka.Offset { return l.state.LastStable }

// New begins a cluster in memory with these topics and their numbers of partitions.
func New(ctx context.Context, t T, topics map[string]int32) *Owner {
	t.Helper()
	objects, table := memstore.New(), memmeta.New()
	o := NewOn(ctx, t, table, objects, topics)
	o.Store, o.Meta = objects, table
	return o
}

// NewOn begins a cluster in these stores, which are empty.
func NewOn(ctx context.Context, t T, table meta.Store, objects objstore.Store, topics map[string]int32) *Owner {
	t.Helper()
	o := &Owner{store: objects, t: t, ctx: ctx, slots: make(map[kafka.Slot]catalog.Slot)}
	o.Cat = catalog.New(table)
	_, err := o.Cat.Cluster(ctx, Slots)
	o.check(err)
	o.cache, err = objcache.New(objcache.Options{Store: o.store})
	o.check(err)
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		topic, err := o.Cat.CreateTopic(ctx, catalog.Topic{Name: name, Partitions: topics[name]})
		o.check(err)
		for p := range topics[name] {
			l := &Log{Topic: topic, TP: kafka.TopicPartition{Topic: topic.ID, Partition: p}, slot: kafka.PartitionSlot(name, p, Slots)}
			l.state = bundle.State{Slot: l.slot, TP: l.TP}
			o.Logs = append(o.Logs, l)
		}
	}
	o.begin(nil)
	return o
}

func (o *Owner) check(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatalf("owner: %v", err)
	}
}

// begin starts a session and takes all slots.
func (o *Owner) begin(ended map[catalog.SessionID]catalog.Session) {
	o.t.Helper()
	var err error
	o.session, err = o.Cat.StartSession(o.ctx, 1, "here:1", "")
	o.check(err)
	var take []catalog.Slot
	for n := range kafka.Slot(Slots) {
		s, ok := o.slots[n]
		if !ok {
			s = catalog.Slot{Slot: n, Epoch: -1}
		}
		s.Spans = append(slices.Clone(s.Spans), catalog.Span{Session: o.session.ID, From: 0, To: -1})
		take = append(take, s)
	}
	taken, err := o.Cat.TakeSlots(o.ctx, o.session, ended, take, nil)
	o.check(err)
	o.keep(taken)
	o.seq = 0
}

func (o *Owner) keep(slots []catalog.Slot) {
	for _, s := range slots {
		o.slots[s.Slot] = s
	}
}

func (o *Owner) origin() bundle.Origin {
	return bundle.Origin{Broker: o.session.ID.Broker, Epoch: o.session.ID.Epoch, Nonce: o.session.Nonce}
}

// Append appends a batch, which is not durable before Flush.
func (o *Owner) Append(l *Log, batch []byte) {
	o.t.Helper()
	record.Stamp(batch, max(l.tip, l.state.NextOffset), o.slots[l.slot].Epoch)
	b, err := bundle.Describe(batch)
	o.check(err)
	l.tip = b.LastOffset() + 1
	for i := range o.pending {
		if d := &o.pending[i]; d.TP == l.TP {
			d.Batches, d.Data = append(d.Batches, b), append(d.Data, batch)
			return
		}
	}
	o.pending = append(o.pending, bundle.SliceData{Slot: l.slot, TP: l.TP, Batches: []bundle.Batch{b}, Data: [][]byte{batch}})
}

// Flush puts what was appended as the next WAL object.
func (o *Owner) Flush() {
	o.t.Helper()
	if len(o.pending) == 0 {
		return
	}
	origin := o.origin()
	origin.Seq = o.seq
	bufs, placed, _ := bundle.WALBuffers(origin, o.pending)
	o.check(o.store.Put(o.ctx, wal.Key(origin), objstore.Buffers(bufs)))
	for i, s := range placed {
		l := o.log(s.TP)
		l.hot = append(l.hot, s.Ref(wal.Key(origin)))
		for _, b := range s.Batches {
			recovery.Fold(&l.state, b)
		}
		l.Batches = append(l.Batches, o.pending[i].Data...)
	}
	o.pending, o.seq = nil, o.seq+1
}

func (o *Owner) log(tp kafka.TopicPartition) *Log {
	i := slices.IndexFunc(o.Logs, func(l *Log) bool { return l.TP == tp })
	return o.Logs[i]
}

// Seal makes a segment of what a log has behind its last one.
func (o *Owner) Seal(l *Log) {
	o.t.Helper()
	o.Flush()
	if len(l.hot) == 0 {
		return
	}
	st := recovery.CloneState(&l.state)
	seg, err := upload.Segment(o.ctx, o.uploads(), upload.Source{TP: l.TP, Base: l.hot[0].Base, End: st.NextOffset, State: st, Slices: l.hot})
	o.check(err)
	o.check(o.Cat.AddSegment(o.ctx, o.slots[l.slot], l.Topic, seg))
	l.hot, l.state.SealedEnd = nil, seg.End
	l.state.Aborted = nil
}

func (o *Owner) uploads() upload.Options {
	return upload.Options{Store: o.store, Cache: o.cache, Origin: o.origin(), Count: &o.count}
}

// Checkpoint writes what lies in the WAL into a checkpoint, or, to merge,
// all that is not sealed; commits it to the slots; and removes what no slot names any more.
func (o *Owner) Checkpoint(merge bool) {
	o.t.Helper()
	o.Flush()
	var parts []upload.CheckpointPart
	for _, l := range o.Logs {
		if l.state.NextOffset == 0 {
			continue
		}
		part := upload.CheckpointPart{State: recovery.CloneState(&l.state)}
		for _, r := range l.hot {
			if merge || r.Key[:4] == "wal/" {
				part.Slices = append(part.Slices, r)
			}
		}
		parts = append(parts, part)
	}
	out, err := upload.Checkpoint(o.ctx, o.uploads(), parts)
	o.check(err)
	before := slices.Collect(maps.Values(o.slots))
	next := slices.Clone(before)
	for i := range next {
		s := &next[i]
		s.Spans = []catalog.Span{{Session: o.session.ID, From: o.seq, To: -1}}
		if merge {
			s.Checkpoints = nil
		}
		s.Checkpoints = append(slices.Clone(s.Checkpoints), catalog.CheckpointRef{Key: out.Key, Size: out.Size})
	}
	next, err = o.Cat.CommitCheckpoint(o.ctx, o.session, next)
	o.check(err)
	o.keep(next)
	for _, m := range out.Moved {
		l := o.log(m.TP)
		var moved []bundle.Ref
		for i := range m.Slices {
			moved = append(moved, m.Slices[i].Ref(out.Key))
		}
		l.hot = append(l.hot[:len(l.hot)-len(moved)], moved...)
	}
	o.trim(before)
}

func (o *Owner) trim(before []catalog.Slot) {
	o.t.Helper()
	var dead []string
	if o.session.Trim < o.seq-1 {
		from := o.session.Trim + 1
		var err error
		o.session, err = o.Cat.SetTrim(o.ctx, o.session, o.seq-1)
		o.check(err)
		for seq := from; seq < o.seq; seq++ {
			origin := o.origin()
			origin.Seq = seq
			dead = append(dead, wal.Key(origin))
		}
	}
	named := recovery.CheckpointKeys(slices.Collect(maps.Values(o.slots)))
	for _, key := range recovery.CheckpointKeys(before) {
		if !slices.Contains(named, key) {
			dead = append(dead, key)
		}
	}
	for lot := range slices.Chunk(dead, objstore.MaxDeleteKeys) {
		o.check(o.store.Delete(o.ctx, lot...))
	}
}

// Restart ends the session, as a crash does, and begins the next one, which
// leaves what was not flushed behind.
func (o *Owner) Restart() {
	o.t.Helper()
	fenced, err := o.Cat.FenceSession(o.ctx, o.session)
	o.check(err)
	at, err := wal.Seal(o.ctx, o.store, o.origin(), fenced.Trim+1, bundle.Origin{Broker: 1, Epoch: fenced.ID.Epoch + 1})
	o.check(err)
	sealed, err := o.Cat.RecordSeal(o.ctx, fenced, at)
	o.check(err)
	for n, s := range o.slots {
		s.Spans = slices.Clone(s.Spans)
		for i := range s.Spans {
			if sp := &s.Spans[i]; sp.Session == sealed.ID && sp.To < 0 {
				sp.To = at
			}
		}
		o.slots[n] = s
	}
	o.pending = nil
	for _, l := range o.Logs {
		l.tip = l.state.NextOffset
	}
	o.begin(map[catalog.SessionID]catalog.Session{sealed.ID: sealed})
}

// Remove removes a log's oldest segments up to n of them, as retention does:
// start, entries, objects.
func (o *Owner) Remove(l *Log, n int) {
	o.t.Helper()
	segs, err := o.Cat.Segments(o.ctx, l.TP, 0, n)
	o.check(err)
	if len(segs) == 0 {
		return
	}
	last := segs[len(segs)-1]
	o.SetStart(l, last.End)
	newest, _, err := o.Cat.NewestSegment(o.ctx, l.TP)
	o.check(err)
	swap := catalog.Swap{Topic: &l.Topic, Old: segs}
	if newest.Base == last.Base {
		swap.New = []catalog.Segment{{TP: l.TP, Base: last.Base, End: last.End, Epochs: last.Epochs}}
	}
	o.check(o.Cat.SwapSegments(o.ctx, swap))
	for _, s := range segs {
		if s.Key != "" {
			o.check(o.store.Delete(o.ctx, s.Key))
		}
	}
}

// SetStart raises a log's start, as DeleteRecords does.
func (o *Owner) SetStart(l *Log, off kafka.Offset) {
	o.t.Helper()
	o.check(o.Cat.SetLogStart(o.ctx, o.slots[l.slot], l.TP, off))
	if off <= l.Start {
		return
	}
	l.Start = off
	for len(l.hot) > 0 && l.hot[0].Last < off {
		l.hot = l.hot[1:]
	}
	l.state.Aborted = slices.DeleteFunc(l.state.Aborted, func(a bundle.AbortedTxn) bool { return a.LastOffset < off })
}

// Named returns a topic's log.
func (o *Owner) Named(topic string, partition int32) *Log {
	o.t.Helper()
	for _, l := range o.Logs {
		if l.Topic.Name == topic && l.TP.Partition == partition {
			return l
		}
	}
	o.t.Fatalf("owner: no log %s", fmt.Sprint(topic, "-", partition))
	return nil
}

// Tail returns the slices behind the sealed segments.
func (l *Log) Tail() []bundle.Ref { return l.hot }
