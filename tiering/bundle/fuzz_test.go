package bundle

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// reseal makes the checksums of a damaged object right again, so that the
// fuzzer gets past them.
func reseal(obj []byte) []byte {
	if len(obj) < HeaderLen+HeaderLen+TrailerLen {
		return obj
	}
	obj = bytes.Clone(obj)
	be := binary.BigEndian
	fix := func(h []byte) { be.PutUint32(h[60:], crc32.Checksum(h[:60], castagnoli)) }
	fix(obj)
	t := obj[len(obj)-TrailerLen:]
	pos := be.Uint64(t)
	if pos > uint64(len(obj)-TrailerLen-HeaderLen) {
		pos = uint64(len(obj) - TrailerLen - HeaderLen)
	}
	footer := obj[pos : len(obj)-TrailerLen]
	fix(footer)
	be.PutUint64(t, pos)
	be.PutUint32(t[8:], uint32(len(footer)))
	be.PutUint32(t[12:], crc32.Checksum(footer, castagnoli))
	be.PutUint32(t[20:], crc32.Checksum(t[:20], castagnoli))
	return obj
}

// footerBody returns what lies between an object's header copy and trailer.
func footerBody(obj []byte) (pos int64, body []byte) {
	t, err := parseTrailer(obj, int64(len(obj)))
	if err != nil {
		panic(err)
	}
	return t.footerPos, obj[t.footerPos+HeaderLen : len(obj)-TrailerLen]
}

func examples(t testing.TB) [][]byte {
	seal, _ := SealBuffers(Origin{Broker: 1}, Origin{Broker: 2})
	var buf bytes.Buffer
	c := NewCheckpointWriter(&buf, Origin{}, MaxFooter)
	c.State(State{NextOffset: 5, Epochs: []EpochStart{{1, 2}}, Aborted: []AbortedTxn{{1, 2, 3, 4}},
		Producers: []Producer{{ID: 1, Batches: []ProducerBatch{{1, 2, 3, 4}}}}})
	if _, err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return [][]byte{exampleWAL(2, 3, 80), exampleSegment(t, 5, 100), bytes.Join(seal, nil), buf.Bytes()}
}

func FuzzParse(f *testing.F) {
	for _, obj := range examples(f) {
		f.Add(obj)
	}
	f.Fuzz(func(t *testing.T, obj []byte) {
		_, _ = Parse(obj)
		if o, err := Parse(reseal(obj)); err == nil && o.Size < 1<<20 {
			_, _ = Verify(t.Context(), inMemory(obj))
		}
	})
}

// FuzzFooter reads any bytes as a footer's; what is accepted must survive
// being written again.
func FuzzFooter(f *testing.F) {
	for _, obj := range examples(f) {
		pos, body := footerBody(obj)
		f.Add(obj[10], uint32(pos), body)
	}
	f.Fuzz(func(t *testing.T, kind byte, pos uint32, body []byte) {
		k := Kind(kind%4 + 1)
		footerPos := max(HeaderLen, int64(pos))
		parse := func(footer []byte) (*Object, error) {
			n := len(footer)
			b, _ := appendTrailer(footer, k, footerPos)
			tr, err := parseTrailer(b, footerPos+int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			return parseFooter(tr, b[:n], footerPos+int64(len(b)))
		}
		o, err := parse(append(appendHeader(nil, k, Origin{}), body...))
		if err != nil {
			return
		}
		b := appendHeader(nil, k, o.Origin)
		switch k {
		case KindSeal:
			b = appendOrigin(b, o.Sealer)
		case KindSegment:
			g := o.Segment
			b = u(u(appendSlices(b, o.Slices), int64(g.Base)), int64(g.End-g.Base))
			b = z(z(u(u(b, g.RawSize), g.Records), g.FirstTimestamp), g.MaxTimestamp)
			b = appendState(appendFrames(b, g.Base, g.Frames), &g.State)
		case KindCheckpoint:
			b = appendStates(appendSlices(b, o.Slices), o.States)
		default:
			b = appendSlices(b, o.Slices)
		}
		again, err := parse(b)
		if err != nil {
			t.Fatal(err)
		}
		again.Size, again.Sum = o.Size, o.Sum
		if !reflect.DeepEqual(o, again) {
			t.Fatal(cmp.Diff(o, again))
		}
	})
}

func FuzzDescribe(f *testing.F) {
	f.Add(makeBatch(Batch{BaseOffset: 1, Attributes: 0x30}, controlBody(1, 7)))
	f.Add(makeBatch(Batch{ProducerID: 3}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Describe(b); err == nil && (int(m.Len) != len(b) || m.LastOffset() < m.BaseOffset) {
			t.Fatalf("%+v", m)
		}
	})
}

func FuzzDecodeFrame(f *testing.F) {
	dec, err := NewFrameDecoder()
	if err != nil {
		f.Fatal(err)
	}
	obj := exampleSegment(f, 5, 100)
	o, err := Parse(obj)
	if err != nil {
		f.Fatal(err)
	}
	fr := o.Segment.Frames[0]
	f.Add(obj[fr.Pos:fr.Pos+int64(fr.Len)], fr.RawLen)
	f.Fuzz(func(t *testing.T, data []byte, raw int32) {
		raw = max(minBatch, raw%(1<<20))
		fr := Frame{Len: int32(len(data)), RawLen: raw, CRC: crc32.Checksum(data, castagnoli)}
		if got, err := dec.Decode(nil, fr, data); err == nil && len(got) != int(raw) {
			t.Fatalf("%d bytes, want %d", len(got), raw)
		}
	})
}
