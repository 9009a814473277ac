package pack_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/tiering/objstore/filestore/pack"
)

// build returns a pack with the bodies given, named by their numbers.
func build(id pack.ID, bodies ...[]byte) (file []byte, recs []pack.Record) {
	file = pack.Header(id, pack.Open)
	for i, body := range bodies {
		rec := pack.Record{Name: fmt.Sprint(i), Offset: int64(len(file)), Size: int64(len(body)), CRC: pack.Checksum([][]byte{body})}
		file = append(append(file, slices.Concat(rec.AppendHeader(nil, id)...)...), body...)
		file = append(file, make([]byte, rec.End()-int64(len(file)))...)
		recs = append(recs, rec)
	}
	return file, recs
}

func scan(t *testing.T, file []byte, id pack.ID) (recs []pack.Record) {
	t.Helper()
	for rec, err := range pack.Scan(bytes.NewReader(file), id, 0, int64(len(file))) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	return recs
}

// at writes into a slice.
type at []byte

func (b at) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

// TestRecords: what was written is read, past records that are not whole.
func TestRecords(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		id := pack.NewID()
		bodies := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 9000), 1, 6).Draw(rt, "bodies")
		file, recs := build(id, bodies...)
		file = append(file, make([]byte, rapid.IntRange(0, 3).Draw(rt, "free")*pack.Block)...)
		if got := scan(t, file, id); !slices.Equal(got, recs) {
			rt.Fatalf("read %v, want %v", got, recs)
		}
		for i, rec := range recs {
			if err := pack.Verify(bytes.NewReader(file), rec); err != nil || !bytes.Equal(file[rec.Body():rec.Body()+rec.Size], bodies[i]) {
				rt.Fatalf("body %d: %v", i, err)
			}
		}
		bad := rapid.IntRange(0, len(recs)-1).Draw(rt, "bad")
		bit := rapid.IntRange(0, 512*8-1).Filter(func(b int) bool { return b/8 != 10 }).Draw(rt, "bit")
		file[recs[bad].Offset+int64(bit/8)] ^= 1 << (bit % 8)
		if got, want := scan(t, file, id), slices.Delete(slices.Clone(recs), bad, bad+1); !slices.Equal(got, want) {
			rt.Fatalf("with a bad header %d read %v, want %v", bad, got, want)
		}
	})
}

func TestMarks(t *testing.T) {
	id := pack.NewID()
	file, recs := build(id, []byte("one"), bytes.Repeat([]byte("two"), 2000))
	if got := scan(t, file, pack.NewID()); len(got) != 0 {
		t.Errorf("another pack's records are read: %v", got)
	}
	if got := scan(t, slices.Concat(file[:pack.Block], file), id); len(got) != 0 {
		t.Errorf("records at other places are read: %v", got)
	}
	if err := pack.MakeVoid(at(file), recs[0]); err != nil {
		t.Fatal(err)
	}
	recs[0].Void = true
	if diff := cmp.Diff(recs, scan(t, file, id)); diff != "" {
		t.Errorf("with a void record (-want +got):\n%s", diff)
	}
	file[recs[1].Body()+5000]++
	if err := pack.Verify(bytes.NewReader(file), recs[1]); !errors.Is(err, pack.ErrInvalid) {
		t.Errorf("Verify of a changed body: %v", err)
	}
	for _, want := range []pack.State{pack.Open, pack.Closing, pack.Closed} {
		copy(file, pack.Header(id, want))
		if got, err := pack.ReadState(bytes.NewReader(file), id); err != nil || got != want {
			t.Errorf("ReadState: %v, %v, want %v", got, err, want)
		}
	}
	file[20]++
	if got, err := pack.ReadState(bytes.NewReader(file[:100]), id); err != nil || got != pack.Open {
		t.Errorf("a torn header's state: %v, %v", got, err)
	}
}

func TestNames(t *testing.T) {
	id := pack.NewID()
	for name, ref := range map[string]bool{id.FileName(): false, id.RefName(): true} {
		if got, isRef, ok := pack.ParseName(name); !ok || isRef != ref || got != id {
			t.Errorf("ParseName(%q): %x, %v, %v", name, got, isRef, ok)
		}
	}
	for _, name := range []string{"", "~pack-", "~ref-00", "~home", "00000000000000000001", id.FileName() + "0", strings.ToUpper(id.RefName())} {
		if _, _, ok := pack.ParseName(name); ok {
			t.Errorf("ParseName(%q) takes it", name)
		}
	}
	ref := id.Ref()
	if got, ok := pack.ParseRef(ref); !ok || got != id || len(ref) != pack.RefSize {
		t.Errorf("ParseRef: %x, %v", got, ok)
	}
	for i := range ref {
		ref[i] ^= 1
		if _, ok := pack.ParseRef(ref); ok {
			t.Errorf("ParseRef takes one with a wrong byte %d", i)
		}
		ref[i] ^= 1
	}
}

// FuzzScan: no bytes make a reader fail, or read outside of the file.
func FuzzScan(f *testing.F) {
	id := pack.ID{1, 2, 3}
	file, _ := build(id, []byte("one"), make([]byte, 5000))
	f.Add(file)
	f.Add(file[:pack.Block+100])
	f.Fuzz(func(t *testing.T, file []byte) {
		next := int64(pack.Block)
		for _, rec := range scan(t, file, id) {
			if rec.Offset < next || rec.Body()+rec.Size > int64(len(file)) || rec.Name == "" {
				t.Errorf("record %v", rec)
			}
			next = rec.End()
			if err := pack.Verify(bytes.NewReader(file), rec); err != nil && !errors.Is(err, pack.ErrInvalid) {
				t.Error(err)
			}
		}
		pack.ParseRef(file)
		if _, err := pack.ReadState(bytes.NewReader(file), id); err != nil {
			t.Error(err)
		}
	})
}
