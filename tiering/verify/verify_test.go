package verify_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/tiertest"
	"github.com/varvelog/varve/tiering/verify"
	"github.com/varvelog/varve/tiering/wal"
)

func run(t tiertest.T, o *tiertest.Owner, quick bool) *verify.Report {
	t.Helper()
	r, err := verify.Run(context.Background(), options(o, quick), nil)
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	return r
}

func options(o *tiertest.Owner, quick bool) verify.Options {
	return verify.Options{Catalog: catalog.New(o.Meta), Store: o.Store, Topics: []string{}, Quick: quick}
}

// TestSound does random steps of an owner and finds no damage. The litter that
// is safe to delete is deleted, and then all is as sound as before.
func TestSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := tiertest.New(context.Background(), t, map[string]int32{"a": 2, "b": 1})
		for i := range rapid.IntRange(1, 50).Draw(t, "steps") {
			tiertest.Step(t, o, i)
			if i%10 == 5 {
				sound(t, o, true)
			}
		}
		sound(t, o, false)
		if _, err := verify.Repair(context.Background(), options(o, false)); err != nil {
			t.Fatalf("repair: %v", err)
		}
		r := sound(t, o, false)
		for _, f := range r.Findings {
			if f.Safe {
				t.Fatalf("left after a repair: %v", f)
			}
		}
		o.Restart()
		o.Checkpoint(true)
		sound(t, o, false)
	})
}

func sound(t tiertest.T, o *tiertest.Owner, quick bool) *verify.Report {
	t.Helper()
	r := run(t, o, quick)
	if r.Damage > 0 || r.Topics == 0 {
		t.Fatalf("damage in %d topics: %v", r.Topics, r.Findings)
	}
	return r
}

// filled returns an owner with two segments of its log, a checkpoint, a sealed
// session, and a WAL.
func filled(t *testing.T) *tiertest.Owner {
	t.Helper()
	o := tiertest.New(t.Context(), t, map[string]int32{"a": 1})
	l := o.Logs[0]
	for i := range 3 {
		for j := range 3 {
			o.Append(l, tiertest.Batch(record.None, 10*i+j, 3, 100))
			o.Flush()
		}
		if i < 2 {
			o.Seal(l)
		}
	}
	o.Checkpoint(false)
	o.Append(l, tiertest.Batch(record.None, 100, 3, 100))
	o.Flush()
	o.Restart()
	o.Append(l, tiertest.Batch(record.None, 101, 3, 100))
	o.Flush()
	o.Append(l, tiertest.Batch(record.None, 102, 3, 100))
	o.Flush()
	return o
}

func key(t *testing.T, o *tiertest.Owner, prefix string, n int) string {
	t.Helper()
	keys := slices.DeleteFunc(o.Store.Keys(), func(k string) bool { return !strings.HasPrefix(k, prefix) })
	return keys[n]
}

// put replaces an object, which no writer can.
func put(t *testing.T, o *tiertest.Owner, key string, body []byte) {
	t.Helper()
	if err := o.Store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := o.Store.Put(t.Context(), key, objstore.Buffers{body}); err != nil {
		t.Fatal(err)
	}
}

// TestDamage breaks one thing after the other and has it found.
func TestDamage(t *testing.T) {
	flip := func(prefix string, n, at int) func(*testing.T, *tiertest.Owner) {
		return func(t *testing.T, o *tiertest.Owner) {
			k := key(t, o, prefix, n)
			b, _ := o.Store.Object(k)
			b = slices.Clone(b)
			b[(at+len(b))%len(b)] ^= 1
			put(t, o, k, b)
		}
	}
	remove := func(prefix string, n int) func(*testing.T, *tiertest.Owner) {
		return func(t *testing.T, o *tiertest.Owner) {
			if err := o.Store.Delete(t.Context(), key(t, o, prefix, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	entry := func(change func(attrs meta.Attrs)) func(*testing.T, *tiertest.Owner) {
		return func(t *testing.T, o *tiertest.Owner) {
			l := o.Logs[0]
			pk := fmt.Sprintf("log/%s/%010d", l.TP.Topic.Hex(), l.TP.Partition)
			items, _, err := o.Meta.Query(t.Context(), pk, meta.Range{})
			if err != nil || len(items) != 2 {
				t.Fatalf("%d entries, %v", len(items), err)
			}
			op := meta.Delete(items[0])
			if change != nil {
				change(items[1].Attrs)
				op = meta.Replace(items[1], items[1].Attrs)
			}
			if err := o.Meta.Commit(t.Context(), meta.NewCommitID(), op); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		harm  func(*testing.T, *tiertest.Owner)
		kind  verify.Kind
		quick bool // found by footers alone
	}{
		"segment is gone":            {remove("seg/", 0), verify.Missing, true},
		"segment's footer":           {flip("seg/", 1, -40), verify.Corrupt, true},
		"segment's frame":            {flip("seg/", 1, 100), verify.Corrupt, false},
		"checkpoint is gone":         {remove("ckpt/", 0), verify.Missing, true},
		"checkpoint's batch":         {flip("ckpt/", 0, 150), verify.Corrupt, false},
		"WAL object's batch":         {flip("wal/", 0, 150), verify.Corrupt, false},
		"WAL object's trailer":       {flip("wal/", 0, -1), verify.Corrupt, true},
		"WAL of a sealed session":    {remove("wal/", 0), verify.Gap, true},
		"seal is gone":               {remove("wal/", 1), verify.Missing, true},
		"first entry is gone":        {entry(nil), verify.Gap, true},
		"entries overlap":            {entry(func(a meta.Attrs) { a["base"] = int64(5) }), verify.Overlap, true},
		"entries leave a gap":        {entry(func(a meta.Attrs) { a["base"] = int64(12) }), verify.Gap, true},
		"entry counts wrongly":       {entry(func(a meta.Attrs) { a["records"] = int64(8) }), verify.Corrupt, true},
		"entry ends before the tail": {entry(func(a meta.Attrs) { a["end"] = int64(17) }), verify.Gap, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, quick := range []bool{false, true} {
				o := filled(t)
				sound(t, o, quick)
				c.harm(t, o)
				r := run(t, o, quick)
				found := slices.ContainsFunc(r.Findings, func(f verify.Finding) bool { return f.Kind == c.kind })
				if want := c.quick || !quick; found != want || (r.Damage > 0) != want {
					t.Errorf("quick %v: %v", quick, r.Findings)
				}
			}
		})
	}
}

// TestDeletedFromTheTail: DeleteRecords has removed what lies between the segments
// and a start in the tail. That is no gap, whatever is sealed of the rest; one
// behind the start is.
func TestDeletedFromTheTail(t *testing.T) {
	o := filled(t)
	l := o.Logs[0]
	o.SetStart(l, l.End()-4)
	sound(t, o, false)
	o.Checkpoint(true)
	sound(t, o, false)
	o.Seal(l)
	sound(t, o, false)
	o.Checkpoint(true)
	sound(t, o, false)
	o.Append(l, tiertest.Batch(record.None, 103, 3, 100))
	o.Seal(l)
	segs, err := o.Cat.Segments(t.Context(), l.TP, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	gone := segs[len(segs)-2]
	if err := o.Cat.SwapSegments(t.Context(), catalog.Swap{Topic: &l.Topic, Old: []catalog.Segment{gone}}); err != nil {
		t.Fatal(err)
	}
	if r := run(t, o, false); !slices.ContainsFunc(r.Findings, func(f verify.Finding) bool { return f.Kind == verify.Gap }) {
		t.Errorf("without the entry from %d to %d: %v", gone.Base, gone.End, r.Findings)
	}
}

// TestPlaceholderFirst: what lies before the first entry is missing, also where
// that entry has no object.
func TestPlaceholderFirst(t *testing.T) {
	o := filled(t)
	l := o.Logs[0]
	segs, err := o.Cat.Segments(t.Context(), l.TP, 0, 0)
	if err != nil || len(segs) != 2 {
		t.Fatalf("%d entries, %v", len(segs), err)
	}
	empty := catalog.Segment{TP: l.TP, Base: segs[1].Base, End: segs[1].End, Epochs: segs[1].Epochs}
	if err := o.Cat.SwapSegments(t.Context(), catalog.Swap{Topic: &l.Topic, Old: segs[1:], New: []catalog.Segment{empty}}); err != nil {
		t.Fatal(err)
	}
	sound(t, o, false)
	if err := o.Cat.SwapSegments(t.Context(), catalog.Swap{Topic: &l.Topic, Old: segs[:1]}); err != nil {
		t.Fatal(err)
	}
	if r := run(t, o, false); len(r.Findings) == 0 || r.Findings[0].Kind != verify.Gap {
		t.Errorf("%v", r.Findings)
	}
}

// TestLitter leaves all kinds of objects that nothing names: what can never be
// named is deleted, the rest is told or on its way.
func TestLitter(t *testing.T) {
	o := filled(t)
	tp := o.Logs[0].TP.Topic.Hex()
	seg := func(epoch, n int) string {
		return fmt.Sprintf("seg/%s/%010d/%020d-%010d-%020d-%020d", tp, 0, 50, 1, epoch, n)
	}
	put(t, o, seg(0, 77), []byte("of a session that is over"))
	put(t, o, seg(1, 77), []byte("of the live one"))
	put(t, o, seg(9, 77), []byte("of one that is unknown"))
	put(t, o, "ckpt/0000000001/00000000000000000000/00000000000000000099", []byte("over"))
	put(t, o, "ckpt/0000000001/00000000000000000001/00000000000000000099", []byte("live"))
	put(t, o, wal.Key(bundle.Origin{Broker: 1, Seq: 999}), []byte("behind the seal"))
	put(t, o, wal.Key(bundle.Origin{Broker: 1, Seq: 0}), []byte("trimmed"))
	put(t, o, "whatever/1", []byte("x"))
	before := o.Store.Keys()
	r := sound(t, o, false)
	count := func(r *verify.Report) (safe, other int) {
		for _, f := range r.Findings {
			if f.Safe {
				safe++
			} else {
				other++
			}
		}
		return safe, other
	}
	if safe, other := count(r); safe != 4 || other != 2 {
		t.Errorf("%d safe, %d others: %v", safe, other, r.Findings)
	}
	deleted, err := verify.Repair(t.Context(), options(o, false))
	if err != nil || len(deleted) != 4 {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	r = sound(t, o, false)
	if safe, other := count(r); safe != 0 || other != 2 || len(o.Store.Keys()) != len(before)-4 {
		t.Errorf("after the repair: %v", r.Findings)
	}
	// The slots move on, and the sealed session's WAL is needed no more.
	o.Checkpoint(true)
	if deleted, err = verify.Repair(t.Context(), options(o, false)); err != nil || len(deleted) == 0 {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	sound(t, o, false)
	if safe, _ := count(run(t, o, false)); safe != 0 {
		t.Error("a second repair would find more")
	}
}
