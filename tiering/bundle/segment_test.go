package bundle

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka"
)

func exampleSegment(t testing.TB, batches, size int) []byte {
	var buf bytes.Buffer
	w, err := NewSegmentWriter(&buf, Origin{Broker: 1, Seq: 2}, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := Batch{LastOffsetDelta: 9, MaxTimestamp: 1_763_000_000_000, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, ControlType: -1, CoordEpoch: -1}
	for range batches {
		if err := w.Batch(makeBatch(m, bytes.Repeat([]byte("varve"), size/5)), m); err != nil {
			t.Fatal(err)
		}
		m.BaseOffset, m.MaxTimestamp = m.LastOffset()+1, m.MaxTimestamp+7
	}
	if _, err := w.Close(State{NextOffset: m.BaseOffset}, nil); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestSegmentRoundTrip(t *testing.T) {
	w, err := NewSegmentWriter(io.Discard, Origin{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := NewFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	rapid.Check(t, func(t *rapid.T) {
		o, st := genOrigin(t), genState(t)
		batches, data := genBatches(t, 400<<10)
		aborted := genAborted(t)
		st.NextOffset = batches[len(batches)-1].LastOffset() + kafka.Offset(rapid.Int64Range(1, 9).Draw(t, "behind"))
		var buf bytes.Buffer
		w.Reset(&buf, o)
		for i, m := range batches {
			if err := w.Batch(data[i], m); err != nil {
				t.Fatal(err)
			}
		}
		info, err := w.Close(st, aborted)
		if err != nil {
			t.Fatal(err)
		}
		st.Aborted = aborted
		obj := buf.Bytes()
		got := readAll(t, obj)
		g := got.Segment
		if d := cmp.Diff(st, g.State) + cmp.Diff(aborted, g.Aborted); d != "" {
			t.Fatal(d)
		}
		raw := bytes.Join(data, nil)
		if g.Base != batches[0].BaseOffset || g.End != st.NextOffset || g.RawSize != int64(len(raw)) ||
			g.Records != info.Records || g.MaxTimestamp != info.MaxTimestamp || g.FirstTimestamp != info.FirstTimestamp ||
			info.Size != int64(len(obj)) || info.RawSize != g.RawSize {
			t.Fatalf("%+v, %+v", info, g)
		}
		if tail, err := Read(t.Context(), inMemory(obj), make([]byte, max(info.FooterLen, 96))); err != nil || tail.Sum != info.Sum {
			t.Fatalf("tail of %d bytes: %v", info.FooterLen, err)
		}
		var back []byte
		for _, f := range g.Frames {
			if f.RawPos != int64(len(back)) {
				t.Fatalf("frame at %d of the raw bytes, want %d", f.RawPos, len(back))
			}
			if back, err = dec.Decode(back, f, obj[f.Pos:f.Pos+int64(f.Len)]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(back, raw) {
			t.Fatal("the batches did not come back")
		}
	})
}

func TestSegmentFrames(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewSegmentWriter(&buf, Origin{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	next := kafka.Offset(0)
	add := func(n, size int, attributes int16) {
		for range n {
			m := Batch{BaseOffset: next, Attributes: attributes, ProducerID: -1}
			if err := w.Batch(makeBatch(m, make([]byte, size-minBatch)), m); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	add(65, 16<<10, 0) // 1 MiB and one more: three frames
	add(2, 16<<10, 4)  // their producer compressed these
	add(1, 2<<20, 0)   // larger than a frame
	add(1, 100, 0)
	if _, err := w.Close(State{NextOffset: next}, nil); err != nil {
		t.Fatal(err)
	}
	type frame struct {
		Base   kafka.Offset
		RawLen int32
		Stored bool
	}
	var got []frame
	for _, f := range readAll(t, buf.Bytes()).Segment.Frames {
		got = append(got, frame{f.BaseOffset, f.RawLen, f.Stored})
	}
	want := []frame{{0, 512 << 10, false}, {32, 512 << 10, false}, {64, 16 << 10, false}, {65, 32 << 10, true}, {67, 2 << 20, false}, {68, 100, false}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestSegmentOfTurns: two producers take turns, one of which compresses. An index
// entry for each batch would be larger than readers take of a long segment's.
func TestSegmentOfTurns(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewSegmentWriter(&buf, Origin{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 10000, 128
	for i := range n {
		m := Batch{BaseOffset: kafka.Offset(i), Attributes: int16(i % 2 * 4), ProducerID: -1}
		if err := w.Batch(makeBatch(m, make([]byte, size-minBatch)), m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(State{NextOffset: n}, nil); err != nil {
		t.Fatal(err)
	}
	if got, most := len(readAll(t, buf.Bytes()).Segment.Frames), n*size/(16<<10)+1; got > most {
		t.Errorf("%d frames, want %d at most", got, most)
	}
}

func TestSegmentRefuses(t *testing.T) {
	m := Batch{BaseOffset: 10, LastOffsetDelta: 4, ProducerID: -1}
	b := makeBatch(m, nil)
	w, err := NewSegmentWriter(io.Discard, Origin{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(State{}, nil); err == nil {
		t.Error("a segment without batches was accepted")
	}
	if err := w.Batch(b, m); err != nil {
		t.Fatal(err)
	}
	if err := w.Batch(b, m); err == nil {
		t.Error("the same offset twice was accepted")
	}
	if _, err := w.Close(State{NextOffset: 14}, nil); err == nil {
		t.Error("an end inside the last batch was accepted")
	}
	full := errors.New("disk full")
	w.Reset(failing{full}, Origin{})
	if err := w.Batch(b, m); !errors.Is(err, full) {
		t.Errorf("write error: %v", err)
	}
	if _, err := w.Close(State{NextOffset: 15}, nil); !errors.Is(err, full) {
		t.Errorf("write error at the end: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestDecodeBoundsOutput(t *testing.T) {
	obj := exampleSegment(t, 500, 300)
	o, err := Parse(obj)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := NewFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	f := o.Segment.Frames[0]
	data := obj[f.Pos : f.Pos+int64(f.Len)]
	for _, n := range []int32{f.RawLen - 1, f.RawLen + 1, minBatch} {
		lie := f
		lie.RawLen = n
		if _, err := dec.Decode(nil, lie, data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("footer says %d bytes, frame has %d: %v", n, f.RawLen, err)
		}
	}
}

func BenchmarkSegmentWriter(b *testing.B) {
	m := Batch{LastOffsetDelta: 15, ProducerID: -1}
	data := makeBatch(m, bytes.Repeat([]byte(`{"user":"1234567","path":"/index.html","ms":17}`), 340))
	w, err := NewSegmentWriter(io.Discard, Origin{}, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Batch(data, m); err != nil {
			b.Fatal(err)
		}
		w.next = 0
	}
}
