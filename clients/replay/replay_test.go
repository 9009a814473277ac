package replay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/tiertest"
)

// line is a record, as the tests compare it.
type line struct {
	Offset, Time int64
	Key, Value   string
	Headers      string
}

// want returns what a log has in [from, to), of all batches or of committed ones.
func want(t tiertest.T, l *tiertest.Log, from, to int64, committed bool) []line {
	aborted := abortedBatches(t, l)
	var all []line
	for i, b := range l.Batches {
		h, err := record.ParseHeader(b)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		if h.Control() || committed && aborted[i] {
			continue
		}
		for r, err := range record.Records(b, 64<<20) {
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			off := int64(h.BaseOffset) + int64(r.OffsetDelta)
			if off >= from && off < to {
				all = append(all, line{off, h.FirstTimestamp + r.TimestampDelta, string(r.Key), string(r.Value), fmt.Sprint(r.Headers)})
			}
		}
	}
	return all
}

// abortedBatches walks a log as a broker of KIP-98 would that has all of it.
func abortedBatches(t tiertest.T, l *tiertest.Log) map[int]bool {
	open, aborted := map[int64][]int{}, map[int]bool{}
	for i, b := range l.Batches {
		h, _ := record.ParseHeader(b)
		switch {
		case h.Control():
			kind, _, err := record.MarkerType(b)
			if err != nil {
				t.Fatalf("marker: %v", err)
			}
			for _, n := range open[h.ProducerID] {
				aborted[n] = kind == 0
			}
			delete(open, h.ProducerID)
		case h.Transactional():
			open[h.ProducerID] = append(open[h.ProducerID], i)
		}
	}
	return aborted
}

func lineOf(r *kgo.Record) line {
	var headers []record.KV
	for _, h := range r.Headers {
		headers = append(headers, record.KV(h))
	}
	return line{r.Offset, r.Timestamp.UnixMilli(), string(r.Key), string(r.Value), fmt.Sprint(headers)}
}

func source(t tiertest.T, o *tiertest.Owner) *replay.Source {
	t.Helper()
	src, err := replay.NewSource(o.Meta, o.Store)
	if err != nil {
		t.Fatalf("open source: %v", err)
	}
	return src
}

func open(ctx context.Context, t tiertest.T, src *replay.Source, o replay.Options) *replay.Replay {
	t.Helper()
	r, err := replay.Open(ctx, src, o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return r
}

// drain reads a replay to its end, or up to n records.
func drain(ctx context.Context, t tiertest.T, r *replay.Replay, n int) map[int32][]line {
	t.Helper()
	got := make(map[int32][]line)
	for rec, err := range r.Records(ctx) {
		if err != nil {
			t.Fatalf("replay: %v", err)
		}
		got[rec.Partition] = append(got[rec.Partition], lineOf(rec))
		if n--; n == 0 {
			break
		}
	}
	return got
}

func compare(t tiertest.T, what string, got, want []line) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%s: (-want +got)\n%.2000s", what, d)
	}
}

// TestEqualsWhatWasAppended does random steps of an owner, reads all of a topic
// with random options, in pieces and as a whole, and compares.
func TestEqualsWhatWasAppended(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		o := tiertest.New(ctx, t, map[string]int32{"a": 2, "b": 1})
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			tiertest.Step(t, o, i)
		}
		src := source(t, o)
		opts := replay.Options{Topic: "a", Committed: rapid.Bool().Draw(t, "committed"), MemoryBytes: rapid.SampledFrom([]int64{0, 1, 1 << 20}).Draw(t, "memory"), Parallel: rapid.IntRange(0, 3).Draw(t, "parallel")}
		r := open(ctx, t, src, opts)
		got := drain(ctx, t, r, rapid.IntRange(0, 20).Draw(t, "first"))
		if rapid.Bool().Draw(t, "resume") {
			text, err := json.Marshal(r.Position())
			if err != nil {
				t.Fatalf("%v", err)
			}
			opts.Resume = new(replay.Position)
			if err := json.Unmarshal(text, opts.Resume); err != nil {
				t.Fatalf("%v", err)
			}
			r = open(ctx, t, src, opts)
		}
		for p, more := range drain(ctx, t, r, 0) {
			got[p] = append(got[p], more...)
		}
		for p := range int32(2) {
			l := o.Named("a", p)
			end := l.End()
			if opts.Committed {
				end = l.Stable()
			}
			compare(t, fmt.Sprint("partition ", p), got[p], want(t, l, int64(l.Start), int64(end), opts.Committed))
			if next := r.Position().Next[p]; next != max(int64(end), int64(l.Start)) {
				t.Fatalf("partition %d: the position is %d, the end %d", p, next, end)
			}
		}
	})
}

// TestBesideAnOwner lets an owner go on while a replay reads what was there
// when it was opened, and then reads on from its position.
func TestBesideAnOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		o := tiertest.New(ctx, t, map[string]int32{"a": 2})
		mark := 0
		steps := func(n int) {
			for range n {
				tiertest.Step(t, o, mark)
				mark++
			}
		}
		steps(rapid.IntRange(1, 40).Draw(t, "before"))
		o.Flush()
		src := source(t, o)
		r := open(ctx, t, src, replay.Options{Topic: "a", MemoryBytes: 1})
		ends := map[int32]int64{}
		for _, g := range r.Ranges() {
			ends[g.Partition] = g.To
		}
		got := map[int32][]line{}
		next, stop := iter.Pull2(r.Records(ctx))
		defer stop()
		for {
			rec, err, ok := next()
			if !ok {
				break
			}
			if err != nil {
				t.Fatalf("replay: %v", err)
			}
			got[rec.Partition] = append(got[rec.Partition], lineOf(rec))
			steps(rapid.IntRange(0, 3).Draw(t, "meanwhile"))
		}
		removed := r.Progress().Removed
		for p := range int32(2) {
			l := o.Named("a", p)
			all := want(t, l, 0, ends[p], false)
			if removed == 0 {
				compare(t, fmt.Sprint("partition ", p), got[p], all[len(all)-len(got[p]):])
			}
			compare(t, fmt.Sprint("what was there to the end, partition ", p), after(got[p], int64(l.Start)), after(all, int64(l.Start)))
			for i := 1; i < len(got[p]); i++ {
				if got[p][i].Offset <= got[p][i-1].Offset {
					t.Fatalf("offset %d follows %d", got[p][i].Offset, got[p][i-1].Offset)
				}
			}
		}
	})
}

func after(all []line, start int64) []line {
	var left []line
	for _, l := range all {
		if l.Offset >= start {
			left = append(left, l)
		}
	}
	return left
}

// TestEach reads all partitions at the same time, one of them not to its end.
func TestEach(t *testing.T) {
	o := filled(t, 3)
	r := open(t.Context(), t, source(t, o), replay.Options{Topic: "a"})
	var mu sync.Mutex
	got := map[int32][]line{}
	err := r.Each(t.Context(), func(p int32, records iter.Seq2[*kgo.Record, error]) error {
		for rec, err := range records {
			if err != nil {
				return err
			}
			mu.Lock()
			got[p] = append(got[p], lineOf(rec))
			mu.Unlock()
			if p == 1 {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(3) {
		l := o.Named("a", p)
		all := want(t, l, 0, int64(l.End()), false)
		if p == 1 {
			all = all[:1]
		}
		compare(t, fmt.Sprint("partition ", p), got[p], all)
	}
	stop := errors.New("stop")
	r = open(t.Context(), t, source(t, o), replay.Options{Topic: "a"})
	err = r.Each(t.Context(), func(p int32, records iter.Seq2[*kgo.Record, error]) error {
		for range records {
			if p == 2 {
				return stop
			}
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Errorf("error of a partition: %v", err)
	}
}

// filled returns an owner of topic a with sealed, checkpointed and WAL records.
func filled(t *testing.T, partitions int32) *tiertest.Owner {
	t.Helper()
	o := tiertest.New(t.Context(), t, map[string]int32{"a": partitions})
	mark := 0
	append3 := func() {
		for range 3 {
			for _, l := range o.Logs {
				o.Append(l, tiertest.Batch(record.Codec(mark%5), mark, 4, 100))
				mark++
			}
			o.Flush()
		}
	}
	append3()
	for _, l := range o.Logs {
		o.Seal(l)
	}
	append3()
	o.Checkpoint(false)
	append3()
	return o
}

// TestBounds begins and ends by offset, by time, at the end.
func TestBounds(t *testing.T) {
	o := filled(t, 1)
	l := o.Named("a", 0)
	src := source(t, o)
	end := int64(l.End())
	// times are 1000 + mark + 0…3, marks count batches of 4 records
	for name, c := range map[string]struct {
		from, to replay.Bound
		lo, hi   int64
	}{
		"all":                 {replay.Bound{}, replay.Bound{}, 0, end},
		"offsets":             {replay.Offset(5), replay.Offset(30), 5, 30},
		"behind the end":      {replay.Offset(30), replay.Offset(1000), 30, end},
		"at the end":          {replay.End(), replay.Bound{}, end, end},
		"from time, sealed":   {replay.Time(time.UnixMilli(1004)), replay.Bound{}, 7, end},
		"from time, in ckpt":  {replay.Time(time.UnixMilli(1007)), replay.Bound{}, 19, end},
		"from time, in WAL":   {replay.Time(time.UnixMilli(1011)), replay.Bound{}, 35, end},
		"from time too late":  {replay.Time(time.UnixMilli(5000)), replay.Bound{}, end, end},
		"from time before it": {replay.Time(time.UnixMilli(1)), replay.Time(time.UnixMilli(1004)), 0, 7},
	} {
		r := open(t.Context(), t, src, replay.Options{Topic: "a", From: c.from, To: c.to})
		compare(t, name, drain(t.Context(), t, r, 0)[0], want(t, l, c.lo, c.hi, false))
		if g := r.Progress(); g.Offsets != g.Total || g.Total != c.hi-c.lo {
			t.Errorf("%s: progress %+v", name, g)
		}
	}
}

// TestNothingLeft: compaction may leave nothing of a segment. Its entry keeps the place.
func TestNothingLeft(t *testing.T) {
	o := filled(t, 1)
	l := o.Named("a", 0)
	o.Seal(l)
	segs, err := o.Cat.Segments(t.Context(), l.TP, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range segs {
		empty := catalog.Segment{TP: l.TP, Base: s.Base, End: s.End, FirstTimestamp: -1, MaxTimestamp: -1, Epochs: s.Epochs, Cleaned: s.End}
		if err := o.Cat.SwapSegments(t.Context(), catalog.Swap{Topic: &l.Topic, Old: []catalog.Segment{s}, New: []catalog.Segment{empty}}); err != nil {
			t.Fatal(err)
		}
		for _, from := range []int64{0, 1, int64(s.Base), int64(s.End)} {
			r := open(t.Context(), t, source(t, o), replay.Options{Topic: "a", From: replay.Offset(from)})
			compare(t, fmt.Sprintf("%d segments emptied, from %d", i+1, from), drain(t.Context(), t, r, 0)[0],
				want(t, l, max(from, int64(s.End)), int64(l.End()), false))
			if g := r.Progress(); g.Offsets != g.Total || r.Position().Next[0] != int64(l.End()) {
				t.Errorf("%d segments emptied, from %d: at the end %+v, position %v", i+1, from, g, r.Position().Next)
			}
		}
		r := open(t.Context(), t, source(t, o), replay.Options{Topic: "a", To: replay.Offset(int64(s.End) - 1)})
		compare(t, "up to a hole", drain(t.Context(), t, r, 0)[0], nil)
		if next := r.Position().Next[0]; next != int64(s.End)-1 {
			t.Errorf("up to a hole: position %d, want %d", next, s.End-1)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	o := filled(t, 1)
	src := source(t, o)
	pos := open(t.Context(), t, src, replay.Options{Topic: "a"}).Position()
	pos.TopicID = "00000000000000000000000000000001"
	o.Remove(o.Named("a", 0), 1)
	for name, c := range map[string]struct {
		o    replay.Options
		want error
	}{
		"no topic":         {replay.Options{Topic: "x"}, replay.ErrNoTopic},
		"no partition":     {replay.Options{Topic: "a", Partitions: []int32{1}}, replay.ErrNoTopic},
		"removed":          {replay.Options{Topic: "a", From: replay.Offset(3)}, replay.ErrOutOfRange},
		"behind the end":   {replay.Options{Topic: "a", From: replay.Offset(99)}, replay.ErrOutOfRange},
		"committed ones":   {replay.Options{Topic: "a", From: replay.Offset(99), Committed: true}, replay.ErrOutOfRange},
		"of another topic": {replay.Options{Topic: "a", Resume: &pos}, replay.ErrNoTopic},
	} {
		if _, err := replay.Open(t.Context(), src, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := replay.Open(t.Context(), src, replay.Options{}); err == nil {
		t.Error("opened without a topic")
	}
}

// TestFollow reads on as a log grows, is sealed, checkpointed and taken over.
func TestFollow(t *testing.T) {
	o := filled(t, 1)
	l := o.Named("a", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := open(ctx, t, source(t, o), replay.Options{Topic: "a", Follow: true, Poll: time.Millisecond})
	next, stop := iter.Pull2(r.Records(ctx))
	defer stop()
	var got []line
	for i, step := range []func(){
		func() {}, o.Flush, func() { o.Seal(l) }, func() { o.Checkpoint(false) }, o.Restart, func() { o.Checkpoint(true) }, o.Restart,
	} {
		o.Append(l, tiertest.Batch(record.None, 100+i, 3, 10))
		o.Flush()
		step()
		for int64(len(got)) < int64(l.End()) {
			rec, err, ok := next()
			if !ok || err != nil {
				t.Fatalf("after step %d, %d records: %v", i, len(got), err)
			}
			got = append(got, lineOf(rec))
		}
	}
	compare(t, "followed", got, want(t, l, 0, int64(l.End()), false))
	cancel()
	if _, err, ok := next(); ok && !errors.Is(err, context.Canceled) {
		t.Errorf("after the context ended: %v", err)
	}
}

// TestRecordsAreCheapToTake shows that reading takes no memory for a record.
func TestRecordsAreCheapToTake(t *testing.T) {
	o := tiertest.New(t.Context(), t, map[string]int32{"a": 1})
	l := o.Named("a", 0)
	for i := range 20 {
		o.Append(l, tiertest.Batch(record.None, i, 1000, 10))
	}
	o.Seal(l)
	src := source(t, o)
	n := testing.AllocsPerRun(5, func() {
		r := open(t.Context(), t, src, replay.Options{Topic: "a"})
		var sum int
		for rec, err := range r.Records(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			sum += len(rec.Value) + bytes.Count(rec.Key, []byte("k"))
		}
	})
	if n > 2000 { // of 20,000 records; opening takes some
		t.Errorf("%v allocations for 20,000 records", n)
	}
}
