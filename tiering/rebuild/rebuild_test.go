package rebuild_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/rebuild"
	"github.com/varvelog/varve/tiering/tiertest"
	"github.com/varvelog/varve/tiering/verify"
)

func ok(t tiertest.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// note writes the manifest of an owner's cluster.
func note(ctx context.Context, t tiertest.T, o *tiertest.Owner, store objstore.Store) {
	t.Helper()
	m, err := manifest.Take(ctx, o.Cat)
	ok(t, err)
	ok(t, manifest.Write(ctx, store, m, fmt.Sprint(len(o.Store.Keys()))))
}

// rebuilt rebuilds a catalogue, and writes it to a store that it returns.
func rebuilt(ctx context.Context, t tiertest.T, o rebuild.Options) (*rebuild.Report, meta.Store) {
	t.Helper()
	r, err := rebuild.Build(ctx, o, memmeta.New())
	ok(t, err)
	store := memmeta.New()
	ok(t, r.WriteTo(ctx, catalog.New(store), false))
	return r.Report, store
}

// records returns what a replay reads of a topic: offset and value by partition.
func records(ctx context.Context, t tiertest.T, table meta.Store, objects objstore.Store, topic string) map[int32][]string {
	t.Helper()
	src, err := replay.NewSource(table, objects)
	ok(t, err)
	r, err := replay.Open(ctx, src, replay.Options{Topic: topic})
	ok(t, err)
	all := make(map[int32][]string)
	for rec, err := range r.Records(ctx) {
		ok(t, err)
		all[rec.Partition] = append(all[rec.Partition], line(rec))
	}
	return all
}

func line(r *kgo.Record) string { return fmt.Sprintf("%d %s %.40s", r.Offset, r.Key, r.Value) }

// want returns what a log has from an offset on.
func want(t tiertest.T, l *tiertest.Log, from kafka.Offset) (all []string) {
	for _, b := range l.Batches {
		h, err := record.ParseHeader(b)
		ok(t, err)
		if h.Control() {
			continue
		}
		for r, err := range record.Records(b, 64<<20) {
			ok(t, err)
			if off := h.BaseOffset + kafka.Offset(r.OffsetDelta); off >= from {
				all = append(all, fmt.Sprintf("%d %s %.40s", off, r.Key, r.Value))
			}
		}
	}
	return all
}

// same compares what a rebuilt catalogue reads with what an owner has written.
func same(ctx context.Context, t tiertest.T, o *tiertest.Owner, table meta.Store, objects objstore.Store, exact bool) {
	t.Helper()
	read := make(map[string]map[int32][]string)
	cat := catalog.New(table)
	ok(t, cat.Refresh(ctx))
	for _, l := range o.Logs {
		name := l.Topic.Name
		if _, there := cat.Topics().ByName(name); !there && l.End() == 0 {
			continue
		}
		if read[name] == nil {
			read[name] = records(ctx, t, table, objects, name)
		}
		got, all := read[name][l.TP.Partition], want(t, l, l.Start)
		if !exact { // what was removed by DeleteRecords may be there again, as far as there are objects of it
			removed := want(t, l, 0)
			removed = removed[:len(removed)-len(all)]
			all = append(slices.DeleteFunc(removed, func(rec string) bool { return !slices.Contains(got, rec) }), all...)
		}
		if d := cmp.Diff(all, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%s-%d from offset %d: (-want +got)\n%.3000s", name, l.TP.Partition, l.Start, d)
		}
	}
	report, err := verify.Run(ctx, verify.Options{Catalog: cat, Store: objects}, nil)
	ok(t, err)
	if report.Damage > 0 {
		t.Fatalf("%v", report.Findings)
	}
}

// TestRebuiltIsWhatWas: random steps of an owner; then the catalogue is lost.
func TestRebuiltIsWhatWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		o := tiertest.New(ctx, t, map[string]int32{"a": 2, "b": 1})
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			tiertest.Step(t, o, i)
		}
		note(ctx, t, o, o.Store)
		report, table := rebuilt(ctx, t, rebuild.Options{Store: o.Store})
		if report.Damaged() {
			t.Fatalf("%v", report.Findings)
		}
		same(ctx, t, o, table, o.Store, true)
	})
}

// TestWithoutAManifest: names are lost, and what DeleteRecords has removed
// without whole segments; no record is.
func TestWithoutAManifest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		o := tiertest.New(ctx, t, map[string]int32{"a": 2, "b": 1})
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			tiertest.Step(t, o, i)
		}
		names := make(map[kafka.TopicID]string)
		for _, l := range o.Logs {
			names[l.TP.Topic] = l.Topic.Name
		}
		r, err := rebuild.Build(ctx, rebuild.Options{Store: o.Store, Slots: tiertest.Slots, Names: names}, memmeta.New())
		ok(t, err)
		if r.Report.Kinds[rebuild.Broken]+r.Report.Kinds[rebuild.Lost] > 0 {
			t.Fatalf("%v", r.Report.Findings)
		}
		table := memmeta.New()
		ok(t, r.WriteTo(ctx, catalog.New(table), false))
		same(ctx, t, o, table, o.Store, false)
	})
}
