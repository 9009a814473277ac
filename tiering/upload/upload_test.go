package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

var testTP = kafka.TopicPartition{Topic: kafka.TopicID{7}, Partition: 2}

// rig has slices of one partition in objects of a store.
type rig struct {
	Options
	mem *memstore.Store
	src Source
	raw []byte // all batches
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{mem: memstore.New()}
	cache, err := objcache.New(objcache.Options{Store: r.mem})
	if err != nil {
		t.Fatal(err)
	}
	r.Options = Options{Store: r.mem, Cache: cache, Origin: bundle.Origin{Broker: 4, Epoch: 9, Nonce: [16]byte{1}}, Count: new(atomic.Int64)}
	r.src = Source{TP: testTP, Base: 100, End: 100, State: bundle.State{Slot: 5, TP: testTP, NextOffset: 100}}
	return r
}

func build(base kafka.Offset, records, size int) []byte {
	b := record.NewBuilder(record.None)
	for i := range records {
		b.Append(int64(base)+int64(i), nil, bytes.Repeat([]byte{byte(base), byte(i)}, size/2))
	}
	out, err := b.Bytes()
	if err != nil {
		panic(err)
	}
	record.Stamp(out, base, 3)
	return out
}

// slice puts batches of a record each in an object, as one slice.
func (r *rig) slice(t *testing.T, sizes ...int) {
	t.Helper()
	ref := Ref{Key: fmt.Sprintf("wal/%d", r.src.End), Pos: 11, Base: r.src.End}
	obj := bytes.Repeat([]byte{0xee}, 11)
	for _, size := range sizes {
		b := build(r.src.End, 1, size)
		r.raw = append(r.raw, b...)
		obj = append(obj, b...)
		r.src.End++
	}
	ref.Len, ref.Last = int64(len(obj))-ref.Pos, r.src.End-1
	r.src.Slices = append(r.src.Slices, ref)
	r.src.State.NextOffset = r.src.End
	if err := r.mem.Put(t.Context(), ref.Key, objstore.Buffers{obj, []byte("tail")}); err != nil {
		t.Fatal(err)
	}
}

// raws returns the batches of a verified segment.
func (r *rig) raws(t *testing.T, key string) []byte {
	t.Helper()
	obj, err := bundle.Verify(t.Context(), bundle.At(r.mem, key))
	if err != nil {
		t.Fatal(err)
	}
	dec, err := bundle.NewFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	data, _ := r.mem.Object(key)
	var raw []byte
	for _, f := range obj.Segment.Frames {
		if raw, err = dec.Decode(raw, f, data[f.Pos:f.Pos+int64(f.Len)]); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

func (r *rig) uploaded() []string {
	var keys []string
	for _, k := range r.mem.Keys() {
		if !strings.HasPrefix(k, "wal/") {
			keys = append(keys, k)
		}
	}
	return keys
}

func TestSegment(t *testing.T) {
	r := newRig(t)
	var paced, most int64
	r.Pace = func(_ context.Context, n int64) error {
		paced, most = paced+n, max(most, n)
		return nil
	}
	r.slice(t, 10, 20, 30)
	var sizes []int
	for range 9 {
		sizes = append(sizes, 700<<10) // the chunks cut batches
	}
	r.slice(t, sizes...)
	r.slice(t, 1)
	r.slice(t, 5, chunkBytes+100<<10, 5) // one that is longer than a chunk
	r.src.State.Epochs = []bundle.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 2, Start: 100}, {Epoch: 3, Start: 103}}
	r.src.State.Aborted = []bundle.AbortedTxn{{ProducerID: 5, FirstOffset: 101, LastOffset: 104, LastStableOffset: 101}}
	before := time.Now().UnixMilli()
	seg, err := Segment(t.Context(), r.Options, r.src)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.raws(t, seg.Key), r.raw) {
		t.Error("the segment has other bytes")
	}
	obj, _ := r.mem.Object(seg.Key)
	if seg.CreatedMs < before || seg.FooterLen <= 0 {
		t.Errorf("created %d, footer of %d bytes", seg.CreatedMs, seg.FooterLen)
	}
	seg.CreatedMs, seg.FooterLen = 0, 0
	want := catalog.Segment{
		TP: testTP, Base: 100, End: r.src.End, Key: "seg/07000000000000000000000000000000/0000000002/00000000000000000100-0000000004-00000000000000000009-00000000000000000001",
		Size: int64(len(obj)), RawSize: int64(len(r.raw)), Records: int64(r.src.End - 100), FirstTimestamp: 100, MaxTimestamp: int64(r.src.End - 1),
		Epochs: []catalog.EpochStart{{Epoch: 2, Start: 100}, {Epoch: 3, Start: 103}},
	}
	if d := cmp.Diff(want.Epochs, seg.Epochs); d != "" {
		t.Error(d)
	}
	want.Epochs, seg.Epochs = nil, nil
	if fmt.Sprintf("%+v", want) != fmt.Sprintf("%+v", seg) {
		t.Errorf("entry\n%+v, want\n%+v", seg, want)
	}
	parsed, err := bundle.Parse(obj)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r.src.State.Aborted, parsed.Segment.Aborted); d != "" {
		t.Error(d)
	}
	if parsed.Origin.Seq != 1 || parsed.Origin.Epoch != 9 {
		t.Errorf("origin %+v", parsed.Origin)
	}
	if paced < int64(len(r.raw)) || most > chunkBytes+200<<10 {
		t.Errorf("paced %d bytes of %d, %d at once", paced, len(r.raw), most)
	}
}

func TestCheckpoint(t *testing.T) {
	r := newRig(t)
	r.slice(t, 10, 20, 30)
	r.slice(t, 1<<20, 5)
	idle := bundle.State{Slot: 1, TP: kafka.TopicPartition{Topic: kafka.TopicID{1}}, NextOffset: 77}
	info, err := Checkpoint(t.Context(), r.Options, []CheckpointPart{{State: r.src.State, Slices: r.src.Slices}, {State: idle}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "ckpt/0000000004/00000000000000000009/00000000000000000001"; info.Key != want {
		t.Errorf("key %s, want %s", info.Key, want)
	}
	obj, err := bundle.Verify(t.Context(), bundle.At(r.mem, info.Key))
	if err != nil {
		t.Fatal(err)
	}
	if obj.Size != info.Size || len(obj.States) != 2 || obj.States[1].NextOffset != 105 || obj.States[0].NextOffset != 77 {
		t.Errorf("checkpoint of %d bytes has states %+v", obj.Size, obj.States)
	}
	if len(info.Moved) != 1 || info.Moved[0].TP != testTP || len(info.Moved[0].Slices) != len(r.src.Slices) {
		t.Fatalf("moved: %+v", info.Moved)
	}
	data, _ := r.mem.Object(info.Key)
	var raw []byte
	for i, s := range info.Moved[0].Slices {
		raw = append(raw, data[s.Pos:s.Pos+s.Len]...)
		if s.Batches[0].BaseOffset != r.src.Slices[i].Base || s.Batches[len(s.Batches)-1].LastOffset() != r.src.Slices[i].Last {
			t.Errorf("slice %d has other offsets", i)
		}
	}
	if !bytes.Equal(raw, r.raw) {
		t.Error("the checkpoint has other bytes")
	}
}

// TestCheckpointStaysInRAM: what was read from RAM before a checkpoint is so after it.
func TestCheckpointStaysInRAM(t *testing.T) {
	r := newRig(t)
	r.slice(t, 10, 20)
	r.slice(t, 30)
	r.slice(t, 5)
	var err error
	if r.Cache, err = objcache.New(objcache.Options{Store: r.mem, RAMBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	for i, ref := range r.src.Slices {
		if data, ok := r.mem.Object(ref.Key); i != 1 && ok {
			r.Cache.Fill(ref.Key, []objcache.Piece{{Data: data}})
		}
	}
	idle := bundle.State{Slot: 1, TP: kafka.TopicPartition{Topic: kafka.TopicID{1}}, NextOffset: 77}
	info, err := Checkpoint(t.Context(), r.Options, []CheckpointPart{{State: idle}, {State: r.src.State, Slices: r.src.Slices}})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range info.Moved[0].Slices {
		before := r.Cache.Stats().RAMHits
		bufs, err := r.Cache.Read(t.Context(), info.Key, s.Pos, s.Len, objcache.NewArena())
		if err != nil || !bytes.HasPrefix(r.raw, bytes.Join(bufs, nil)) {
			t.Fatalf("slice %d: other bytes, %v", i, err)
		}
		r.raw = r.raw[s.Len:]
		if hit := r.Cache.Stats().RAMHits > before; hit != (i != 1) {
			t.Errorf("slice %d is read from RAM: %v", i, hit)
		}
	}
}

// away is a store some way off, which is where a tail lies that was taken over.
type away struct{ objstore.Store }

func (a away) ReadAt(ctx context.Context, key string, b []byte, off int64) (n int, size int64, err error) {
	time.Sleep(30 * time.Millisecond)
	return a.Store.ReadAt(ctx, key, b, off)
}

// TestCheckpointOfTakenTail: slices in hundreds of objects are not read one after the other.
func TestCheckpointOfTakenTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for range 600 {
			r.slice(t, 100)
		}
		var err error
		if r.Cache, err = objcache.New(objcache.Options{Store: away{r.mem}}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		half := len(r.src.Slices) / 2
		other := bundle.State{Slot: 6, TP: kafka.TopicPartition{Topic: kafka.TopicID{8}}, NextOffset: r.src.End}
		info, err := Checkpoint(t.Context(), r.Options, []CheckpointPart{{State: r.src.State, Slices: r.src.Slices[:half]}, {State: other, Slices: r.src.Slices[half:]}})
		if err != nil || len(info.Moved) != 2 || len(info.Moved[0].Slices) != half || len(info.Moved[1].Slices) != half {
			t.Fatalf("%+v, %v", info, err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("600 objects took %s", took)
		}
		data, _ := r.mem.Object(info.Key)
		var raw []byte
		for _, m := range info.Moved {
			for _, s := range m.Slices {
				raw = append(raw, data[s.Pos:s.Pos+s.Len]...)
			}
		}
		if !bytes.Equal(raw, r.raw) {
			t.Error("the checkpoint has other bytes")
		}
	})
}

// What is not as the references say is never sealed, and not tried again.
func TestDamageIsNotSealed(t *testing.T) {
	for name, damage := range map[string]func(r *rig){
		"flipped bit":    func(r *rig) { obj, _ := r.mem.Object("wal/100"); obj[11+80] ^= 4 },
		"offset":         func(r *rig) { obj, _ := r.mem.Object("wal/100"); obj[11+7]++ },
		"magic":          func(r *rig) { obj, _ := r.mem.Object("wal/100"); obj[11+16] = 1 },
		"length":         func(r *rig) { obj, _ := r.mem.Object("wal/100"); obj[11+9] ^= 0x70 },
		"cut":            func(r *rig) { r.src.Slices[0].Len-- },
		"too long":       func(r *rig) { r.src.Slices[0].Len += 3 },
		"shifted":        func(r *rig) { r.src.Slices[0].Pos++ },
		"last offset":    func(r *rig) { r.src.Slices[0].Last++ },
		"fewer offsets":  func(r *rig) { r.src.Slices[0].Last-- },
		"empty":          func(r *rig) { r.src.Slices[0].Len = 0 },
		"base":           func(r *rig) { r.src.Slices[0].Base-- },
		"swapped slices": func(r *rig) { r.src.Slices[0], r.src.Slices[1] = r.src.Slices[1], r.src.Slices[0] },
		"lost slice":     func(r *rig) { r.src.Slices = r.src.Slices[:1] },
		"segment's base": func(r *rig) { r.src.Base-- },
		"segment's end":  func(r *rig) { r.src.End++ },
		"state":          func(r *rig) { r.src.State.NextOffset++ },
		"partition":      func(r *rig) { r.src.State.TP.Partition++ },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.slice(t, 100, 200)
			r.slice(t, 50)
			damage(r)
			if _, err := Segment(t.Context(), r.Options, r.src); !errors.Is(err, ErrCorrupt) {
				t.Errorf("segment: %v, want ErrCorrupt", err)
			}
			if n := r.Count.Load(); n > 1 {
				t.Errorf("%d attempts", n)
			}
			if keys := r.uploaded(); len(keys) > 0 {
				t.Errorf("uploaded %v", keys)
			}
		})
	}
}

func TestDamageIsNotCheckpointed(t *testing.T) {
	for name, damage := range map[string]func(r *rig){
		"flipped bit":   func(r *rig) { obj, _ := r.mem.Object("wal/100"); obj[11+80] ^= 4 },
		"cut":           func(r *rig) { r.src.Slices[0].Len-- },
		"last offset":   func(r *rig) { r.src.Slices[0].Last++ },
		"fewer offsets": func(r *rig) { r.src.Slices[0].Last-- },
		"base":          func(r *rig) { r.src.Slices[0].Base-- },
	} {
		r := newRig(t)
		r.slice(t, 100, 200)
		damage(r)
		_, err := Checkpoint(t.Context(), r.Options, []CheckpointPart{{State: r.src.State, Slices: r.src.Slices}})
		if !errors.Is(err, ErrCorrupt) || len(r.uploaded()) > 0 {
			t.Errorf("%s: %v, want ErrCorrupt; uploaded %v", name, err, r.uploaded())
		}
	}
}

// Each outcome of a PUT: the next attempt has a key of its own, so that what
// landed, or lands later, is never taken for the segment.
func TestPutFails(t *testing.T) {
	for _, c := range []struct {
		kind            memstore.Kind
		fails, uploaded int // of the PUTs; objects an hour later
		ok              bool
	}{
		{memstore.Fail, 1, 1, true},
		{memstore.FailApplied, 1, 2, true},
		{memstore.LandLater, 2, 3, true},
		{memstore.Fail, attempts, 0, false},
		{memstore.FailApplied, attempts, attempts, false},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.slice(t, 100, 200)
				n := 0
				r.mem.SetFault(func(op memstore.Op, key string) memstore.Fault {
					if op != memstore.OpPut {
						return memstore.Fault{}
					}
					if n++; n > c.fails {
						return memstore.Fault{}
					}
					return memstore.Fault{Kind: c.kind, After: time.Minute}
				})
				seg, err := Segment(t.Context(), r.Options, r.src)
				if (err == nil) != c.ok || err != nil && !errors.Is(err, memstore.ErrInjected) {
					t.Fatalf("upload: %v", err)
				}
				time.Sleep(time.Hour) // in the bubble: what lands later has landed
				if keys := r.uploaded(); len(keys) != c.uploaded {
					t.Errorf("%d objects, want %d: %v", len(keys), c.uploaded, keys)
				}
				if c.ok && !bytes.Equal(r.raws(t, seg.Key), r.raw) {
					t.Error("the segment has other bytes")
				}
			})
		})
	}
}

func TestSourceFails(t *testing.T) {
	var cancel context.CancelFunc
	slow := errors.New("too busy")
	for name, c := range map[string]struct {
		prepare func(r *rig)
		want    error
	}{
		"missing": {func(r *rig) { _ = r.mem.Delete(t.Context(), "wal/100") }, objstore.ErrNotFound},
		"store": {func(r *rig) {
			r.mem.SetFault(func(op memstore.Op, _ string) memstore.Fault {
				return memstore.Fault{Kind: map[memstore.Op]memstore.Kind{memstore.OpReadAt: memstore.Fail}[op]}
			})
		}, memstore.ErrInjected},
		"pace": {func(r *rig) { r.Pace = func(context.Context, int64) error { return slow } }, slow},
		"ctx": {func(r *rig) {
			r.Pace = func(ctx context.Context, _ int64) error { cancel(); <-ctx.Done(); return ctx.Err() }
		}, context.Canceled},
	} {
		ctx, stop := context.WithCancel(t.Context())
		cancel = stop
		r := newRig(t)
		r.slice(t, 100)
		c.prepare(r)
		if _, err := Segment(ctx, r.Options, r.src); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if n := r.Count.Load(); n > 1 || len(r.uploaded()) > 0 {
			t.Errorf("%s: %d attempts, uploaded %v", name, n, r.uploaded())
		}
		stop()
	}
}

// twice writes each body twice, as a store that repeats a PUT.
type twice struct {
	objstore.Store
	t *testing.T
}

func (s twice) Put(ctx context.Context, key string, body objstore.Body) error {
	var a, b bytes.Buffer
	na, err := body.WriteTo(&a)
	if err != nil {
		return err
	}
	if _, err := body.WriteTo(&b); err != nil {
		return err
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || na != int64(a.Len()) {
		s.t.Errorf("put %s: %d bytes, then %d, which differ", key, na, b.Len())
	}
	return s.Store.Put(ctx, key, objstore.Buffers{b.Bytes()})
}

func TestBodyRepeats(t *testing.T) {
	r := newRig(t)
	r.slice(t, 100, 2000)
	r.slice(t, 300)
	r.Store = twice{r.mem, t}
	seg, err := Segment(t.Context(), r.Options, r.src)
	if err != nil {
		t.Fatal(err)
	}
	if seg.Records != 3 || !bytes.Equal(r.raws(t, seg.Key), r.raw) {
		t.Errorf("segment of %d records", seg.Records)
	}
	info, err := Checkpoint(t.Context(), r.Options, []CheckpointPart{{State: r.src.State, Slices: r.src.Slices}})
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Moved) != 1 || len(info.Moved[0].Slices) != 2 {
		t.Errorf("moved %+v", info.Moved)
	}
}

// From RAM a slice comes in pieces, and a chunk may cut them anywhere.
func TestPieces(t *testing.T) {
	for cut := 1; cut < 400; cut += 7 {
		r := newRig(t)
		r.slice(t, 50, 70, 10)
		obj, _ := r.mem.Object("wal/100")
		cache, err := objcache.New(objcache.Options{Store: r.mem, RAMBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		var pieces []objcache.Piece
		for off := 0; off < len(obj); off += cut {
			pieces = append(pieces, objcache.Piece{Off: int64(off), Data: obj[off:min(off+cut, len(obj))]})
		}
		cache.Fill("wal/100", pieces)
		r.Cache = cache
		seg, err := Segment(t.Context(), r.Options, r.src)
		if err != nil {
			t.Fatalf("pieces of %d bytes: %v", cut, err)
		}
		if !bytes.Equal(r.raws(t, seg.Key), r.raw) {
			t.Errorf("pieces of %d bytes: the segment has other bytes", cut)
		}
	}
}

// TestParseKeys reads back the keys that are written, and no others.
func TestParseKeys(t *testing.T) {
	o := bundle.Origin{Broker: 4, Epoch: 9, Seq: 17}
	key := SegmentKey(testTP, 12, o, 17)
	if tp, base, got, ok := ParseSegmentKey(key); !ok || tp != testTP || base != 12 || got != o {
		t.Errorf("%s: %v, %d, %+v, %v", key, tp, base, got, ok)
	}
	ckpt := checkpointKey(o, 17)
	if got, ok := ParseCheckpointKey(ckpt); !ok || got != o {
		t.Errorf("%s: %+v, %v", ckpt, got, ok)
	}
	for _, bad := range []string{"", "seg", ckpt, key + "0", key + "-1", strings.Replace(key, "seg/07", "seg/0x", 1), "seg/" + key} {
		if _, _, _, ok := ParseSegmentKey(bad); ok {
			t.Errorf("%q passes for the key of a segment", bad)
		}
	}
	for _, bad := range []string{"", key, ckpt + "/", "ckpt/4/9/17", "x" + ckpt} {
		if _, ok := ParseCheckpointKey(bad); ok {
			t.Errorf("%q passes for the key of a checkpoint", bad)
		}
	}
}
