package catalog_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// An entry that a job has merged into the one before stays merged, when its
// owner says it again and when a lost attempt to add it lands late.
func TestAddSegmentAfterMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memmeta.New()
		c := catalog.New(store)
		_, slot := owner(t, c, 1)
		topic := must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 1}))
		tp := kafka.TopicPartition{Topic: topic.ID}
		ok(t, c.AddSegment(t.Context(), slot, topic, catalog.Segment{TP: tp, Base: 0, End: 10, Key: "a"}))
		second := catalog.Segment{TP: tp, Base: 10, End: 20, Key: "b"}

		store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
			return memmeta.Fault{Fail: op == "commit", Later: time.Hour}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantErr(t, c.AddSegment(ctx, slot, topic, second), catalog.ErrUnknown)
		store.Hook = nil
		ok(t, c.AddSegment(t.Context(), slot, topic, second))

		segs := must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, 0, 0))
		merged := []catalog.Segment{{TP: tp, Base: 0, End: 20, Key: "ab", Cleaned: 20}}
		ok(t, c.SwapSegments(t.Context(), catalog.Swap{Topic: &topic, Old: segs, New: merged}))
		wantErr(t, c.AddSegment(t.Context(), slot, topic, second), catalog.ErrExists)
		time.Sleep(2 * time.Hour)
		same(t, merged, must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, 0, 0)))
	})
}

func TestSegments(t *testing.T) {
	c := catalog.New(memmeta.New())
	mine, slot := owner(t, c, 1)
	topic := must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 1}))
	tp := kafka.TopicPartition{Topic: topic.ID}
	if _, found, err := c.NewestSegment(t.Context(), tp); found || err != nil {
		t.Fatal(found, err)
	}
	var want []catalog.Segment
	for i := range kafka.Offset(5) {
		s := catalog.Segment{
			TP: tp, Base: 10 * i, End: 10*i + 10, Key: fmt.Sprint("seg/", i), Size: 5, RawSize: 9, Records: 10, FirstTimestamp: -1, MaxTimestamp: 2,
			FooterLen: 3, CreatedMs: 4, Epochs: []catalog.EpochStart{{Epoch: 1, Start: 10 * i}},
		}
		ok(t, c.AddSegment(t.Context(), slot, topic, s))
		want = append(want, s)
	}
	ok(t, c.AddSegment(t.Context(), slot, topic, want[4])) // the same once more
	wantErr(t, c.AddSegment(t.Context(), slot, topic, catalog.Segment{TP: tp, Base: 40, End: 41, Key: "other"}), catalog.ErrExists)
	for from, first := range map[kafka.Offset]int{-1: 0, 0: 0, 9: 0, 10: 1, 35: 3, 49: 4, 50: 5, 1 << 40: 5} {
		same(t, want[first:], must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, from, 0)))
		for limit := 1; limit < 4; limit++ {
			same(t, want[first:min(5, first+limit)], must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, from, limit)))
		}
	}
	segs := must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, 0, 0))
	ok(t, c.AlterTopicConfigs(t.Context(), "t", func(m map[string]string) (map[string]string, error) { return m, nil })) // no obstacle
	ok(t, c.SwapSegments(t.Context(), catalog.Swap{Topic: &topic, Old: segs[:2]}))
	wantErr(t, c.SwapSegments(t.Context(), catalog.Swap{Topic: &topic, Old: segs[1:3]}), catalog.ErrFenced)
	empty := catalog.Segment{TP: tp, Base: 40, End: 50}
	ok(t, c.SwapSegments(t.Context(), catalog.Swap{Topic: &topic, Old: segs[2:], New: []catalog.Segment{empty}}))
	newest, found, err := c.NewestSegment(t.Context(), tp)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	same(t, empty, newest)
	same(t, []catalog.Segment{empty}, must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, 0, 0)))

	_, taken := takeOver(t, c, mine, slot)
	next := catalog.Segment{TP: tp, Base: 50, End: 60, Key: "k"}
	wantErr(t, c.AddSegment(t.Context(), slot, topic, next), catalog.ErrFenced)
	ok(t, c.DeleteTopic(t.Context(), "t", kafka.TopicID{}))
	wantErr(t, c.AddSegment(t.Context(), taken, topic, next), catalog.ErrNotFound)
	must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 1}))
	wantErr(t, c.AddSegment(t.Context(), taken, topic, next), catalog.ErrNotFound) // another life of the name
	wantErr(t, c.SwapSegments(t.Context(), catalog.Swap{Topic: &topic, Old: []catalog.Segment{newest}}), catalog.ErrNotFound)
	ok(t, c.SwapSegments(t.Context(), catalog.Swap{Old: []catalog.Segment{newest}}))
}

// between calls do once, before the n-th item or page that is queried; pages have few items.
type between struct {
	meta.Store
	n  int
	do func()
}

func (b *between) Query(ctx context.Context, pk string, r meta.Range) (items []meta.Item, more bool, err error) {
	limit := 3
	if r.Limit > 0 {
		limit = min(limit, r.Limit)
	}
	r.Limit = 1
	for more = true; more && len(items) < limit; {
		if b.n--; b.n == 0 {
			b.do()
		}
		var one []meta.Item
		if one, more, err = b.Store.Query(ctx, pk, r); err != nil {
			return nil, false, err
		}
		if items = append(items, one...); len(one) > 0 {
			r.After = one[0].SK
		}
	}
	return items, more, nil
}

// Whenever two neighbours are joined while segments are read, none is missed.
func TestSegmentsWhileSwapped(t *testing.T) {
	joined := 0
	for from := range kafka.Offset(10 * swappedSegments) {
		if from%10 > 1 {
			continue
		}
		for limit := range swappedSegments + 1 {
			for left := range swappedSegments - 1 {
				for at := 1; readWhileSwapped(t, from, limit, left, at); at++ {
					joined++
				}
			}
		}
	}
	if joined < 1000 {
		t.Errorf("only %d were joined", joined)
	}
}

const swappedSegments = 7 // of ten records each

// readWhileSwapped joins segments left and left+1 before the read numbered at, and says whether there
// was one.
func readWhileSwapped(t *testing.T, from kafka.Offset, limit, left, at int) (joined bool) {
	t.Helper()
	store := memmeta.New()
	c := catalog.New(store)
	_, slot := owner(t, c, 1)
	topic := must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 1}))
	tp := kafka.TopicPartition{Topic: topic.ID}
	for i := range kafka.Offset(swappedSegments) {
		ok(t, c.AddSegment(t.Context(), slot, topic, catalog.Segment{TP: tp, Base: 10 * i, End: 10*i + 10, Key: fmt.Sprint(i)}))
	}
	torn := catalog.New(&between{store, at, func() {
		joined = true
		segs := must[[]catalog.Segment](t)(c.Segments(t.Context(), tp, 0, 0))[left : left+2]
		one := catalog.Segment{TP: tp, Base: segs[0].Base, End: segs[1].End, Key: "joined"}
		ok(t, c.SwapSegments(t.Context(), catalog.Swap{Topic: &topic, Old: segs, New: []catalog.Segment{one}}))
	}})
	got := must[[]catalog.Segment](t)(torn.Segments(t.Context(), tp, from, limit))
	next := from - from%10
	for i, s := range got {
		if s.Base > next || s.End <= next {
			t.Fatalf("from %d, limit %d, %d joined before read %d: segment %d is %d to %d, wanted %d", from, limit, left, at, i, s.Base, s.End, next)
		}
		next = s.End
	}
	if (limit == 0 || len(got) < limit) && next != 10*swappedSegments {
		t.Fatalf("from %d, limit %d, %d joined before read %d: ends at %d", from, limit, left, at, next)
	}
	return joined
}
