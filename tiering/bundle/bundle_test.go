package bundle

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka"
)

// makeBatch builds the bytes of a batch that m describes; its records are body.
func makeBatch(m Batch, body []byte) []byte {
	b := make([]byte, minBatch, minBatch+len(body))
	be := binary.BigEndian
	be.PutUint64(b, uint64(m.BaseOffset))
	be.PutUint32(b[8:], uint32(minBatch+len(body)-12))
	be.PutUint32(b[12:], uint32(m.LeaderEpoch))
	b[16] = 2
	be.PutUint16(b[21:], uint16(m.Attributes))
	be.PutUint32(b[23:], uint32(m.LastOffsetDelta))
	be.PutUint64(b[27:], uint64(m.MaxTimestamp-1))
	be.PutUint64(b[35:], uint64(m.MaxTimestamp))
	be.PutUint64(b[43:], uint64(m.ProducerID))
	be.PutUint16(b[51:], uint16(m.ProducerEpoch))
	be.PutUint32(b[53:], uint32(m.BaseSequence))
	be.PutUint32(b[57:], uint32(m.LastOffsetDelta)+1)
	b = append(b, body...)
	be.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// controlBody is the one record of a marker.
func controlBody(typ int16, coord int32) []byte {
	b := []byte{0, 0, 0, 8, 0, 0} // attributes, deltas, key length 4, key's version
	b = binary.BigEndian.AppendUint16(b, uint16(typ))
	b = append(b, 12, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(coord))
	b = append(b, 0)
	return append([]byte{byte(len(b) << 1)}, b...)
}

func genTP(t *rapid.T) (kafka.Slot, kafka.TopicPartition) {
	var tp kafka.TopicPartition
	copy(tp.Topic[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "topic"))
	tp.Partition = rapid.Int32Range(0, 1<<31-1).Draw(t, "partition")
	return kafka.Slot(rapid.Int32Range(0, 4095).Draw(t, "slot")), tp
}

func genBatches(t *rapid.T, maxBody int) (out []Batch, data [][]byte) {
	next := kafka.Offset(rapid.Int64Range(0, 1<<50).Draw(t, "first"))
	for range rapid.IntRange(1, 12).Draw(t, "batches") {
		m := Batch{
			BaseOffset:      next + kafka.Offset(rapid.SampledFrom([]int64{0, 0, 0, 1, 1 << 40}).Draw(t, "hole")),
			LastOffsetDelta: rapid.Int32Range(0, 1000).Draw(t, "delta"),
			MaxTimestamp:    rapid.Int64().Draw(t, "time"),
			Attributes:      rapid.SampledFrom([]int16{0, 0, 8, 1, 4, 0x10}).Draw(t, "attributes"),
			LeaderEpoch:     kafka.LeaderEpoch(rapid.Int32().Draw(t, "epoch")),
			ProducerID:      -1, ProducerEpoch: -1, BaseSequence: -1, ControlType: -1, CoordEpoch: -1,
		}
		if rapid.Bool().Draw(t, "idempotent") {
			m.ProducerID = rapid.Int64Range(0, 1<<62).Draw(t, "producer")
			m.ProducerEpoch = rapid.Int16().Draw(t, "pepoch")
			m.BaseSequence = rapid.Int32Range(-1, 1<<31-1).Draw(t, "seq")
		}
		body := make([]byte, rapid.IntRange(0, maxBody).Draw(t, "len"))
		if rapid.IntRange(0, 5).Draw(t, "control") == 0 {
			m.Attributes, m.LastOffsetDelta = 0x30, 0
			m.ControlType = rapid.Int16Range(0, 1).Draw(t, "type")
			m.CoordEpoch = rapid.Int32Range(0, 1<<31-1).Draw(t, "coord")
			body = controlBody(m.ControlType, m.CoordEpoch)
		}
		b := makeBatch(m, body)
		m.Len = int32(len(b))
		next = m.LastOffset() + 1
		out, data = append(out, m), append(data, b)
	}
	return out, data
}

func genOrigin(t *rapid.T) Origin {
	o := Origin{Broker: rapid.Int32().Draw(t, "broker"), Epoch: rapid.Int64().Draw(t, "session"), Seq: rapid.Int64().Draw(t, "n")}
	copy(o.Nonce[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "nonce"))
	return o
}

func genState(t *rapid.T) State {
	st := State{
		NextOffset: kafka.Offset(rapid.Int64Range(0, 1<<62).Draw(t, "next")),
		SealedEnd:  kafka.Offset(rapid.Int64Range(-1, 1<<62).Draw(t, "sealed")),
		LastStable: kafka.Offset(rapid.Int64Range(-1, 1<<62).Draw(t, "stable")),
	}
	st.Slot, st.TP = genTP(t)
	var e EpochStart
	for range rapid.IntRange(0, 3).Draw(t, "epochs") {
		e.Epoch += kafka.LeaderEpoch(rapid.Int32Range(0, 1<<20).Draw(t, "epoch"))
		e.Start += kafka.Offset(rapid.Int64Range(0, 1<<50).Draw(t, "start"))
		st.Epochs = append(st.Epochs, e)
	}
	for range rapid.IntRange(0, 3).Draw(t, "producers") {
		p := Producer{ID: rapid.Int64().Draw(t, "id"), Epoch: rapid.Int16().Draw(t, "epoch"),
			LastTimestamp: rapid.Int64().Draw(t, "time"), CoordEpoch: rapid.Int32().Draw(t, "coord"),
			TxnFirstOffset: kafka.Offset(rapid.Int64().Draw(t, "txn"))}
		for range rapid.IntRange(0, 5).Draw(t, "pbatches") {
			p.Batches = append(p.Batches, ProducerBatch{FirstSeq: rapid.Int32().Draw(t, "f"), LastSeq: rapid.Int32().Draw(t, "l"),
				BaseOffset: kafka.Offset(rapid.Int64().Draw(t, "b")), Timestamp: rapid.Int64().Draw(t, "t")})
		}
		st.Producers = append(st.Producers, p)
	}
	st.Aborted = genAborted(t)
	return st
}

func genAborted(t *rapid.T) (out []AbortedTxn) {
	for range rapid.IntRange(0, 3).Draw(t, "aborted") {
		out = append(out, AbortedTxn{ProducerID: rapid.Int64().Draw(t, "id"), FirstOffset: kafka.Offset(rapid.Int64().Draw(t, "f")),
			LastOffset: kafka.Offset(rapid.Int64().Draw(t, "l")), LastStableOffset: kafka.Offset(rapid.Int64().Draw(t, "s"))})
	}
	return out
}

// inMemory is the ReadAt of an object that lies in memory.
func inMemory(obj []byte) ReadAt {
	return func(_ context.Context, p []byte, off int64) (int, int64, error) {
		size := int64(len(obj))
		if off < 0 {
			off = max(0, size+off)
			return copy(p, obj[off:]), size, nil
		}
		n := copy(p, obj[min(off, size):])
		if n < len(p) {
			return n, size, io.EOF
		}
		return n, size, nil
	}
}

// readAll reads obj in every way and returns what they agree on.
func readAll(t interface {
	Helper()
	Fatalf(string, ...any)
}, obj []byte) *Object {
	t.Helper()
	want, err := Verify(context.Background(), inMemory(obj))
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	small, err := Read(context.Background(), inMemory(obj), make([]byte, HeaderLen+TrailerLen))
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	parsed, err := Parse(obj)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	if d := cmp.Diff(want, small) + cmp.Diff(want, parsed); d != "" {
		t.Fatalf("read differently: %s", d)
	}
	return want
}

func TestWALRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := genOrigin(t)
		var in []SliceData
		var all []byte
		for range rapid.IntRange(1, 5).Draw(t, "slices") {
			d := SliceData{}
			d.Slot, d.TP = genTP(t)
			d.Batches, d.Data = genBatches(t, 300)
			in = append(in, d)
			all = append(all, bytes.Join(d.Data, nil)...)
		}
		bufs, placed, sum := WALBuffers(o, in)
		obj := bytes.Join(bufs, nil)
		got := readAll(t, obj)
		want := &Object{Kind: KindWAL, Origin: o, Size: int64(len(obj)), Sum: sum, Slices: placed}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		if !bytes.HasPrefix(obj[HeaderLen:], all) || len(obj) <= SealSize {
			t.Fatal("the batches' bytes are not where they should be")
		}
		for i, s := range got.Slices {
			for j, m := range s.Batches {
				if !bytes.Equal(obj[m.Pos:m.Pos+int64(m.Len)], in[i].Data[j]) {
					t.Fatalf("batch %d of slice %d is not at its place", j, i)
				}
			}
		}
	})
}

func TestSealRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		target, sealer := genOrigin(t), genOrigin(t)
		bufs, sum := SealBuffers(target, sealer)
		obj := bytes.Join(bufs, nil)
		want := &Object{Kind: KindSeal, Origin: target, Sealer: sealer, Size: SealSize, Sum: sum}
		if d := cmp.Diff(want, readAll(t, obj)); d != "" {
			t.Fatal(d)
		}
	})
}

// cut splits b at random places.
func cut(t *rapid.T, b []byte) (out [][]byte) {
	for len(b) > 0 {
		n := rapid.IntRange(0, len(b)).Draw(t, "cut")
		if len(out) > 20 {
			n = len(b)
		}
		out = append(out, b[:n])
		b = b[n:]
	}
	return out
}

func TestCheckpointRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := genOrigin(t)
		var buf bytes.Buffer
		w := NewCheckpointWriter(&buf, o, MaxFooter)
		slices := map[kafka.TopicPartition]Slice{}
		states := map[kafka.TopicPartition]State{}
		for range rapid.IntRange(0, 5).Draw(t, "slices") {
			st := genState(t)
			states[st.TP] = st
			s := Slice{Slot: st.Slot, TP: st.TP}
			var data [][]byte
			s.Batches, data = genBatches(t, 300)
			placed, err := w.Slice(s, cut(t, bytes.Join(data, nil)))
			if err != nil {
				t.Fatal(err)
			}
			slices[st.TP] = placed
		}
		for _, st := range states {
			w.State(st)
		}
		info, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		got := readAll(t, buf.Bytes())
		if info.Size != int64(buf.Len()) || info.Sum != got.Sum || got.Kind != KindCheckpoint || got.Origin != o {
			t.Fatalf("%+v of %+v", info, got)
		}
		if len(got.States) != len(states) {
			t.Fatalf("%d states, want %d", len(got.States), len(states))
		}
		for i, st := range got.States {
			if i > 0 && got.States[i-1].Slot > st.Slot {
				t.Fatal("states are not grouped by slot")
			}
			if d := cmp.Diff(states[st.TP], st); d != "" {
				t.Fatal(d)
			}
		}
		for _, s := range got.Slices {
			if d := cmp.Diff(slices[s.TP], s); d != "" {
				t.Fatal(d)
			}
		}
	})
}

func TestCheckpointRefusesWrongData(t *testing.T) {
	m := Batch{BaseOffset: 7, ProducerID: -1}
	data := makeBatch(m, make([]byte, 10))
	m.Len = int32(len(data))
	other := m
	other.BaseOffset = 8
	for name, c := range map[string]struct {
		m    Batch
		data [][]byte
	}{
		"short":        {m, [][]byte{data[:len(data)-1]}},
		"long":         {m, [][]byte{data, {0}}},
		"other offset": {other, [][]byte{data}},
		"none":         {m, nil},
	} {
		w := NewCheckpointWriter(io.Discard, Origin{}, MaxFooter)
		if _, err := w.Slice(Slice{Batches: []Batch{c.m}}, c.data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestVerifySeesEveryFlippedByte(t *testing.T) {
	objs := map[string][]byte{"wal": exampleWAL(3, 2, 100), "segment": exampleSegment(t, 20, 300)}
	for name, obj := range objs {
		for i := range obj {
			bad := bytes.Clone(obj)
			bad[i] ^= 0x10
			if _, err := Verify(t.Context(), inMemory(bad)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: byte %d of %d flipped: %v", name, i, len(obj), err)
			}
		}
		for n := range len(obj) {
			if _, err := Parse(obj[:n]); err == nil {
				t.Fatalf("%s: its first %d bytes are accepted", name, n)
			}
		}
	}
}

// exampleWAL is a WAL object of slices × batches of size bytes.
func exampleWAL(slices, batches, size int) []byte {
	var in []SliceData
	for p := range slices {
		d := SliceData{Slot: kafka.Slot(p), TP: kafka.TopicPartition{Topic: kafka.TopicID{1}, Partition: int32(p)}}
		for i := range batches {
			m := Batch{BaseOffset: kafka.Offset(1_000_000 + 16*i), LastOffsetDelta: 15, MaxTimestamp: 1_763_000_000_000 + int64(3*i), LeaderEpoch: 4,
				ProducerID: 12345, ProducerEpoch: 0, BaseSequence: int32(16 * i), ControlType: -1, CoordEpoch: -1}
			d.Batches, d.Data = append(d.Batches, m), append(d.Data, makeBatch(m, make([]byte, size-minBatch)))
		}
		in = append(in, d)
	}
	bufs, _, _ := WALBuffers(Origin{Broker: 1, Epoch: 2, Seq: 3, Nonce: [16]byte{4}}, in)
	return bytes.Join(bufs, nil)
}

func TestWALFooterIsSmall(t *testing.T) {
	obj := exampleWAL(6, 11, 16<<10) // about 1 MiB
	if over := len(obj) - 66*16<<10; over > 1100 {
		t.Errorf("%d bytes around %d batches", over, 66)
	}
	obj = exampleWAL(1, 1000, minBatch)
	if over := len(obj) - 1000*minBatch; over > 1000*9+300 {
		t.Errorf("%d bytes around 1000 batches", over)
	}
}

func TestWALAllocations(t *testing.T) {
	o, err := Parse(exampleWAL(6, 50, 1000))
	if err != nil {
		t.Fatal(err)
	}
	var in []SliceData
	for _, s := range o.Slices {
		d := SliceData{Slot: s.Slot, TP: s.TP, Batches: s.Batches}
		for _, m := range s.Batches {
			d.Data = append(d.Data, makeBatch(m, make([]byte, 100)))
		}
		in = append(in, d)
	}
	if n := testing.AllocsPerRun(10, func() { WALBuffers(o.Origin, in) }); n > 5 {
		t.Errorf("%v allocations for a bundle of 300 batches", n)
	}
}

func TestWALPanicsOnWhatNobodyCouldRead(t *testing.T) {
	good := Batch{BaseOffset: 5, ProducerID: -1}
	back := Batch{BaseOffset: 4, ProducerID: -1}
	defer func() {
		if recover() == nil {
			t.Error("offsets that go back were accepted")
		}
	}()
	WALBuffers(Origin{}, []SliceData{{Batches: []Batch{good, back}, Data: [][]byte{makeBatch(good, nil), makeBatch(back, nil)}}})
}
