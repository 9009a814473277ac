package catalog_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

type offsets = map[kafka.TopicPartition]catalog.GroupOffset

func sameGroup(t *testing.T, want, got catalog.GroupState) {
	t.Helper()
	if want.ID != got.ID || !bytes.Equal(want.Value, got.Value) {
		t.Fatalf("group %q of %d bytes, want %q of %d bytes", got.ID, len(got.Value), want.ID, len(want.Value))
	}
}

func load(t *testing.T, c *catalog.Catalog, id string) (catalog.GroupState, offsets) {
	t.Helper()
	g, o, err := c.LoadGroup(t.Context(), id)
	ok(t, err)
	return g, o
}

func TestGroupState(t *testing.T) {
	c := catalog.New(memmeta.New())
	mine, slot := owner(t, c, 1)
	g, _ := load(t, c, "g")
	if len(g.Value) != 0 {
		t.Fatalf("%+v", g)
	}
	wantErr(t, c.DeleteGroup(t.Context(), slot, g), catalog.ErrNotFound)
	for _, size := range []int{1, 3 << 20, 256 << 10, 256<<10 + 1, 600 << 10, 0, 512 << 10} { // grows and shrinks over chunks
		g.Value = bytes.Repeat([]byte{byte(size >> 10), 1, 2}, size/3+1)[:size]
		g = must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g))
		again, _ := load(t, c, "g")
		sameGroup(t, g, again)
		if size%2 == 0 {
			g = again // what is read and what is saved serve alike
		}
	}
	same(t, []string{"g"}, must[[]string](t)(c.Groups(t.Context(), 0)))

	large := g
	large.Value = make([]byte, 4<<20)
	_, err := c.SaveGroup(t.Context(), slot, large)
	wantErr(t, err, catalog.ErrTooLarge)

	// Checkpoints change the slot's item and are no obstacle.
	slot = must[[]catalog.Slot](t)(c.CommitCheckpoint(t.Context(), mine, []catalog.Slot{slot}))[0]
	old := slot
	slot = must[[]catalog.Slot](t)(c.CommitCheckpoint(t.Context(), mine, []catalog.Slot{slot}))[0]
	saved := must[catalog.GroupState](t)(c.SaveGroup(t.Context(), old, g))
	_, err = c.SaveGroup(t.Context(), slot, g) // the state of before
	wantErr(t, err, catalog.ErrFenced)
	wantErr(t, c.CommitOffsets(t.Context(), g, offsets{{}: {}}, nil), catalog.ErrFenced)

	_, taken := takeOver(t, c, mine, slot)
	_, err = c.SaveGroup(t.Context(), slot, saved)
	wantErr(t, err, catalog.ErrFenced)
	must[catalog.GroupState](t)(c.SaveGroup(t.Context(), taken, saved))
	_, err = c.SaveGroup(t.Context(), slot, catalog.GroupState{ID: "\xff"})
	wantErr(t, err, catalog.ErrTooLarge)
}

func TestGroupOffsets(t *testing.T) {
	c := catalog.New(memmeta.New())
	_, slot := owner(t, c, 1)
	g, _ := load(t, c, "g")
	g = must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g))
	want := make(offsets)
	for topic := range byte(3) {
		for p := range int32(64 * 50) {
			tp := kafka.TopicPartition{Topic: kafka.TopicID{topic}, Partition: p}
			want[tp] = catalog.GroupOffset{Offset: kafka.Offset(p), LeaderEpoch: -1, Metadata: "m\x00\"<é", CommitMs: 7}
		}
	}
	ok(t, c.CommitOffsets(t.Context(), g, want, nil)) // 150 runs: two commits
	_, got := load(t, c, "g")
	same(t, want, got)

	tp := kafka.TopicPartition{Topic: kafka.TopicID{1}, Partition: 65}
	var gone []kafka.TopicPartition
	for p := range int32(64) {
		gone = append(gone, kafka.TopicPartition{Topic: kafka.TopicID{2}, Partition: p})
		delete(want, gone[p])
	}
	want[tp] = catalog.GroupOffset{Offset: 1 << 40, ExpireMs: 9}
	ok(t, c.CommitOffsets(t.Context(), g, offsets{tp: want[tp]}, gone))
	_, got = load(t, c, "g")
	same(t, want, got)

	long := make(offsets) // 20 runs of 190 KB
	for p := range int32(64 * 20) {
		long[kafka.TopicPartition{Partition: p}] = catalog.GroupOffset{Metadata: strings.Repeat("x", 3000)}
	}
	ok(t, c.CommitOffsets(t.Context(), g, long, nil))
	huge := make(offsets)
	for p := range int32(64) {
		huge[kafka.TopicPartition{Partition: p}] = catalog.GroupOffset{Metadata: strings.Repeat("\x00", 4096)}
	}
	wantErr(t, c.CommitOffsets(t.Context(), g, huge, nil), catalog.ErrTooLarge)

	ok(t, c.DeleteGroup(t.Context(), slot, g))
	wantErr(t, c.CommitOffsets(t.Context(), g, long, nil), catalog.ErrFenced)
	if g, got = load(t, c, "g"); len(g.Value) != 0 || len(got) != 0 {
		t.Fatalf("%d bytes, %d offsets are left", len(g.Value), len(got))
	}
	same(t, []string{}, must[[]string](t)(c.Groups(t.Context(), 0)))
	must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g)) // anew
}
