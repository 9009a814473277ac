package catalog_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// TestOddGroupIDs: keys are not empty, ids may be.
func TestOddGroupIDs(t *testing.T) {
	c := catalog.New(memmeta.New())
	_, slot := owner(t, c, 1)
	ids := []string{"", "\x00", "\x00a", "a"}
	for _, id := range ids {
		g, _ := load(t, c, id)
		g.Value = []byte(id + "'s")
		must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g))
	}
	same(t, ids, must[[]string](t)(c.Groups(t.Context(), 0)))
	for _, id := range ids {
		g, _ := load(t, c, id)
		sameGroup(t, catalog.GroupState{ID: id, Value: []byte(id + "'s")}, g)
	}
	g, _ := load(t, c, "")
	ok(t, c.DeleteGroup(t.Context(), slot, g))
	same(t, ids[1:], must[[]string](t)(c.Groups(t.Context(), 0)))
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

// TestClaimGroup: a claim ends the coordinator's commits, and its next save the
// claim; neither is had without the lease, or by what has changed.
func TestClaimGroup(t *testing.T) {
	c := catalog.New(memmeta.New())
	ctx := t.Context()
	_, slot := owner(t, c, 1)
	lease := must[catalog.Lease](t)(c.AcquireLease(ctx, "retention", "broker-1", time.Minute))
	saved := catalog.SavedGroup{Generation: 3, ProtocolType: "consumer", EmptySinceMs: 5}
	g, _ := load(t, c, "g")
	g.Value = saved.Encode()
	g = must[catalog.GroupState](t)(c.SaveGroup(ctx, slot, g))
	claimed := must[catalog.GroupState](t)(c.ClaimGroup(ctx, lease, g, saved))
	got := must[catalog.SavedGroup](t)(catalog.DecodeGroup(claimed.Value))
	saved.Fence = catalog.GroupFence{Broker: -1, Session: lease.Epoch}
	same(t, saved, got)
	wantErr(t, c.CommitOffsets(ctx, g, offsets{{}: {}}, nil), catalog.ErrFenced)
	_, err := c.SaveGroup(ctx, slot, g)
	wantErr(t, err, catalog.ErrFenced)
	again, _ := load(t, c, "g")
	sameGroup(t, claimed, again)
	taken := must[catalog.GroupState](t)(c.SaveGroup(ctx, slot, again))
	wantErr(t, c.RemoveGroup(ctx, slot.Slot, claimed), catalog.ErrFenced)
	_, err = c.ClaimGroup(ctx, lease, claimed, saved)
	wantErr(t, err, catalog.ErrFenced)
	ok(t, c.CommitOffsets(ctx, taken, offsets{{}: {Offset: 1}}, nil))
	ok(t, c.ReleaseLease(ctx, lease, time.Hour))
	_, err = c.ClaimGroup(ctx, lease, taken, saved)
	wantErr(t, err, catalog.ErrFenced)
	lease = must[catalog.Lease](t)(c.AcquireLease(ctx, "retention", "broker-1", time.Minute))
	claimed = must[catalog.GroupState](t)(c.ClaimGroup(ctx, lease, taken, saved))
	ok(t, c.RemoveGroup(ctx, slot.Slot, claimed))
	same(t, []string{}, must[[]string](t)(c.Groups(ctx, 0)))
	if g, got := load(t, c, "g"); len(g.Value) != 0 || len(got) != 0 {
		t.Fatalf("%d bytes, %d offsets are left", len(g.Value), len(got))
	}
}

// TestLeaseIsReserved: behind a turn for who made it, and for functions always;
// during a turn for nobody else, and a broker that comes back goes on with its own.
func TestLeaseIsReserved(t *testing.T) {
	c := catalog.New(memmeta.New())
	ctx := t.Context()
	lease := must[catalog.Lease](t)(c.AcquireLease(ctx, "retention", "broker-1", time.Minute))
	_, err := c.AcquireLease(ctx, "retention", catalog.FunctionHolder, time.Minute)
	wantErr(t, err, catalog.ErrHeld)
	back := must[catalog.Lease](t)(c.AcquireLease(ctx, "retention", "broker-1", time.Minute))
	wantErr(t, c.ReleaseLease(ctx, lease, time.Hour), catalog.ErrFenced)
	_, err = c.AcquireLease(ctx, "retention", "broker-2", time.Minute)
	wantErr(t, err, catalog.ErrHeld)
	ok(t, c.ReleaseLease(ctx, back, time.Hour))
	_, err = c.AcquireLease(ctx, "retention", "broker-2", time.Minute)
	wantErr(t, err, catalog.ErrHeld)
	lease = must[catalog.Lease](t)(c.AcquireLease(ctx, "retention", catalog.FunctionHolder, time.Minute))
	_, err = c.AcquireLease(ctx, "retention", catalog.FunctionHolder, time.Minute)
	wantErr(t, err, catalog.ErrHeld)
	ok(t, c.ReleaseLease(ctx, lease, time.Hour))
	_, err = c.AcquireLease(ctx, "retention", "broker-1", time.Minute)
	wantErr(t, err, catalog.ErrHeld)
}

// TestLeaseOfAWrongClock: who took a lease with a clock that was years ahead does not keep others from the work when it is gone.
func TestLeaseOfAWrongClock(t *testing.T) {
	store := memmeta.New()
	c := catalog.New(store)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(20 * 365 * 24 * time.Hour)
		lease := must[catalog.Lease](t)(c.AcquireLease(t.Context(), "sweep", "broker-1", time.Minute))
		ok(t, c.ReleaseLease(t.Context(), lease, time.Hour))
	})
	synctest.Test(t, func(t *testing.T) { // the year 2000 again
		lease := must[catalog.Lease](t)(c.AcquireLease(t.Context(), "sweep", "broker-2", time.Minute))
		_, err := c.AcquireLease(t.Context(), "sweep", catalog.FunctionHolder, time.Minute)
		wantErr(t, err, catalog.ErrHeld)
		ok(t, c.ReleaseLease(t.Context(), lease, time.Hour))
		must[catalog.Lease](t)(c.AcquireLease(t.Context(), "sweep", catalog.FunctionHolder, time.Minute))
	})
}

func FuzzDecodeGroup(f *testing.F) {
	group := catalog.SavedGroup{State: 3, Members: []catalog.SavedMember{{ID: "m", Protocols: []catalog.GroupProtocol{{Name: "range"}}}}}
	f.Add(group.Encode())
	f.Add([]byte{1, 1, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := catalog.DecodeGroup(b)
		if err != nil {
			wantErr(t, err, catalog.ErrCorruptGroup)
			return
		}
		same(t, g, must[catalog.SavedGroup](t)(catalog.DecodeGroup(g.Encode())))
	})
}
