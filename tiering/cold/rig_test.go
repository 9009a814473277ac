package cold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/upload"
)

// failer is a test, rapid's or testing's.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// rig is one partition: what is produced goes into slices of objects, these
// into segments by the code that does it in a broker, and back through a Reader.
type rig struct {
	*Reader
	ctx   context.Context
	store *memstore.Store
	cat   *catalog.Catalog
	cache *objcache.Cache
	slot  catalog.Slot
	topic catalog.Topic
	tp    kafka.TopicPartition
	count atomic.Int64

	hot   []upload.Ref
	state bundle.State
	log   [][]byte // every batch, in order
}

func newRig(t failer, ctx context.Context, o Options) *rig {
	t.Helper()
	r := &rig{ctx: ctx, store: memstore.New(), cat: catalog.New(memmeta.New())}
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatalf("make rig: %v", err)
		}
	}
	r.topic, err = r.cat.CreateTopic(ctx, catalog.Topic{Name: "t", ID: kafka.TopicID{1}, Partitions: 1})
	check()
	session, err := r.cat.StartSession(ctx, 1, "here:1", "")
	check()
	slots, err := r.cat.TakeSlots(ctx, session, nil, []catalog.Slot{{Slot: 3, Epoch: -1}}, nil)
	check()
	r.slot, r.tp = slots[0], kafka.TopicPartition{Topic: r.topic.ID}
	r.state = bundle.State{Slot: 3, TP: r.tp, Epochs: []bundle.EpochStart{{Epoch: 0, Start: 0}}}
	r.cache, err = objcache.New(objcache.Options{Store: r.store})
	check()
	if o.RAMBytes == 0 {
		o.RAMBytes = 32 << 20
	}
	o.Catalog, o.Cache, o.Store = r.cat, r.cache, r.store
	r.Reader, err = New(o)
	check()
	return r
}

// batch describes a batch to be built.
type batch struct {
	codec record.Codec
	times []int64 // of its records
	size  int     // bytes of each value
	seed  uint64
}

func (b batch) build(base kafka.Offset) []byte {
	builder := record.NewBuilder(b.codec)
	rng := rand.New(rand.NewPCG(b.seed, 1))
	for i, ts := range b.times {
		value := make([]byte, b.size)
		for j := range value {
			if j%64 < 8 { // the rest is zeros
				value[j] = byte(rng.Uint32())
			}
		}
		builder.Append(ts, fmt.Append(nil, "key-", i), value)
	}
	out, err := builder.Bytes()
	if err != nil {
		panic(err)
	}
	record.Stamp(out, base, 0)
	return out
}

// produce appends batches as one slice of an object.
func (r *rig) produce(t failer, all ...batch) {
	t.Helper()
	obj := []byte("something else")
	ref := upload.Ref{Key: fmt.Sprintf("wal/%d", r.count.Add(1)), Pos: int64(len(obj)), Base: r.state.NextOffset}
	for _, d := range all {
		b := d.build(r.state.NextOffset)
		r.log = append(r.log, b)
		obj = append(obj, b...)
		r.state.NextOffset += kafka.Offset(len(d.times))
	}
	r.state.LastStable = r.state.NextOffset
	ref.Len, ref.Last = int64(len(obj))-ref.Pos, r.state.NextOffset-1
	if err := r.store.Put(r.ctx, ref.Key, objstore.Buffers{obj, []byte("and more")}); err != nil {
		t.Fatalf("put: %v", err)
	}
	r.hot = append(r.hot, ref)
}

// seal makes a segment of all that is hot.
func (r *rig) seal(t failer) catalog.Segment {
	t.Helper()
	seg, err := upload.Segment(r.ctx, upload.Options{Store: r.store, Cache: r.cache, Count: &r.count}, upload.Source{
		TP: r.tp, Base: r.hot[0].Base, End: r.state.NextOffset, State: r.state, Slices: r.hot,
	})
	if err != nil {
		t.Fatalf("upload: %v", err)
	}
	r.add(t, seg)
	r.state.SealedEnd, r.state.Aborted, r.hot = seg.End, nil, nil
	return seg
}

func (r *rig) add(t failer, seg catalog.Segment) {
	t.Helper()
	if err := r.cat.AddSegment(r.ctx, r.slot, r.topic, seg); err != nil {
		t.Fatalf("add segment: %v", err)
	}
}

// compacted puts a segment of batches that lie at given offsets, up to end.
func (r *rig) compacted(t failer, base, end kafka.Offset, at ...kafka.Offset) catalog.Segment {
	t.Helper()
	var obj bytes.Buffer
	w, err := bundle.NewSegmentWriter(&obj, bundle.Origin{}, 0)
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	for _, off := range at {
		b := batch{times: []int64{int64(off)}, size: 300 << 10, seed: uint64(off)}.build(off)
		m, err := bundle.Describe(b)
		if err == nil {
			err = w.Batch(b, m)
		}
		if err != nil {
			t.Fatalf("write: %v", err)
		}
		r.log = append(r.log, b)
	}
	st := r.state
	st.NextOffset, st.LastStable = end, end
	info, err := w.Close(st, nil)
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	seg := catalog.Segment{TP: r.tp, Base: base, End: end, Key: fmt.Sprintf("seg/%d", r.count.Add(1)), Size: info.Size, RawSize: info.RawSize,
		Records: info.Records, FirstTimestamp: info.FirstTimestamp, MaxTimestamp: info.MaxTimestamp, FooterLen: info.FooterLen}
	if err := r.store.Put(r.ctx, seg.Key, objstore.Buffers{obj.Bytes()}); err != nil {
		t.Fatalf("put: %v", err)
	}
	r.add(t, seg)
	r.state.NextOffset = end
	return seg
}

// mustRead reads and compares with the log: the batches from the first that
// ends at from or later, within the limit.
func (r *rig) mustRead(t failer, from kafka.Offset, limit int64) kafka.Offset {
	t.Helper()
	bufs, next, err := r.Read(r.ctx, r.tp, from, limit, nil)
	if err != nil {
		t.Fatalf("read from %d: %v", from, err)
	}
	got := bytes.Join(bufs, nil)
	var want []byte
	for _, b := range r.log {
		h, err := record.ParseHeader(b)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		if h.LastOffset() >= from && len(want) < len(got) {
			want = append(want, b...)
			if next <= h.LastOffset() {
				t.Fatalf("read from %d to %d, which holds offset %d", from, next, h.LastOffset())
			}
		} else if h.BaseOffset >= from && h.BaseOffset < next {
			t.Fatalf("read from %d to %d leaves out offset %d", from, next, h.BaseOffset)
		}
	}
	if len(got) == 0 || !bytes.Equal(got, want) {
		t.Fatalf("read from %d: %d bytes, not the %d that were produced", from, len(got), len(want))
	}
	if h, err := record.ParseHeader(got); err != nil || int64(len(got)) > limit && h.Size() != len(got) {
		t.Fatalf("read from %d: %d bytes with a limit of %d", from, len(got), limit)
	}
	return next
}

// mustReadAll reads everything from an offset to the end.
func (r *rig) mustReadAll(t failer, from kafka.Offset, limit int64) {
	t.Helper()
	for from < r.state.SealedEnd {
		from = r.mustRead(t, from, limit)
	}
	if _, _, err := r.Read(r.ctx, r.tp, from, limit, nil); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("read behind the end: %v, want ErrNotFound", err)
	}
}
