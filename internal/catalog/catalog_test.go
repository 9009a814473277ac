package catalog_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/internal/meta/sqlite"
)

// must returns a function that ends the test unless a call's error is nil.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

// typed compares what the catalogue returns, but for the items that conditions need.
var typed = cmp.Options{cmpopts.IgnoreUnexported(catalog.Session{}, catalog.Slot{}, catalog.Topic{}, catalog.Segment{}), cmpopts.EquateEmpty()}

func same(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, typed); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
}

// owner starts a session of a broker that owns slot 0.
func owner(t *testing.T, c *catalog.Catalog, broker int32) (catalog.Session, catalog.Slot) {
	t.Helper()
	s := must[catalog.Session](t)(c.StartSession(t.Context(), broker, "host:1", "rack"))
	slots := must[[]catalog.Slot](t)(c.TakeSlots(t.Context(), s, nil, []catalog.Slot{{Epoch: -1, Spans: []catalog.Span{{Session: s.ID, To: -1}}}}, nil))
	return s, slots[0]
}

// takeOver ends a session and gives its slot to a new one.
func takeOver(t *testing.T, c *catalog.Catalog, s catalog.Session, slot catalog.Slot) (catalog.Session, catalog.Slot) {
	t.Helper()
	s = must[catalog.Session](t)(c.FenceSession(t.Context(), s))
	s = must[catalog.Session](t)(c.RecordSeal(t.Context(), s, 7))
	next := must[catalog.Session](t)(c.StartSession(t.Context(), s.ID.Broker+1, "", ""))
	slot = must[[]catalog.Slot](t)(c.Slots(t.Context()))[slot.Slot]
	taken := must[[]catalog.Slot](t)(c.TakeSlots(t.Context(), next, map[catalog.SessionID]catalog.Session{s.ID: s}, []catalog.Slot{slot}, nil))
	return next, taken[0]
}

func TestClusterIsCreatedOnce(t *testing.T) {
	store := memmeta.New()
	var mu sync.Mutex
	seen := make(map[catalog.Cluster]int)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			cl, err := catalog.New(store).Cluster(t.Context(), 256+i)
			if err != nil || len(cl.ID) != 22 || cl.Level != catalog.Level {
				t.Errorf("%+v, %v", cl, err)
			}
			mu.Lock()
			seen[cl]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Fatalf("%v", seen)
	}
}

func TestSession(t *testing.T) {
	c := catalog.New(memmeta.New())
	s := must[catalog.Session](t)(c.StartSession(t.Context(), 3, "host:1", "a"))
	same(t, []catalog.Session{s}, must[[]catalog.Session](t)(c.Sessions(t.Context(), 3)))
	if s.State != catalog.Live || s.SealedAt != -1 || s.Trim != -1 || s.Nonce == [16]byte{} || s.Addr != "host:1" || s.Rack != "a" {
		t.Fatalf("%+v", s)
	}
	second := must[catalog.Session](t)(c.StartSession(t.Context(), 3, "", ""))
	if second.ID != (catalog.SessionID{Broker: 3, Epoch: s.ID.Epoch + 1}) {
		t.Fatal(second.ID)
	}
	trimmed := must[catalog.Session](t)(c.SetTrim(t.Context(), s, 4))
	same(t, trimmed, must[catalog.Session](t)(c.SetTrim(t.Context(), s, 3))) // the item of before: it has gone further
	trimmed = must[catalog.Session](t)(c.SetTrim(t.Context(), s, 5))
	fenced := must[catalog.Session](t)(c.FenceSession(t.Context(), s))
	if fenced.State != catalog.Fenced || fenced.Trim != 5 {
		t.Fatalf("%+v", fenced)
	}
	for _, stale := range []catalog.Session{trimmed, fenced} {
		_, err := c.SetTrim(t.Context(), stale, 6)
		wantErr(t, err, catalog.ErrFenced)
	}
	if c.RemoveSession(t.Context(), fenced) == nil {
		t.Fatal("a session that is not sealed was removed")
	}
	sealed := must[catalog.Session](t)(c.RecordSeal(t.Context(), fenced, 9))
	same(t, sealed, must[catalog.Session](t)(c.RecordSeal(t.Context(), fenced, 10))) // the first stays
	same(t, sealed, must[catalog.Session](t)(c.FenceSession(t.Context(), s)))
	sealed = must[catalog.Session](t)(c.SetTrim(t.Context(), sealed, 8)) // a job may
	same(t, []catalog.Session{sealed, second}, must[[]catalog.Session](t)(c.AllSessions(t.Context())))
	ok(t, c.RemoveSession(t.Context(), sealed))
	ok(t, c.RemoveSession(t.Context(), must[catalog.Session](t)(c.RecordSeal(t.Context(), second, 0))))
	if s = must[catalog.Session](t)(c.StartSession(t.Context(), 3, "", "")); s.ID.Epoch != second.ID.Epoch+1 {
		t.Fatalf("an epoch came back: %d", s.ID.Epoch)
	}
}

func TestSlots(t *testing.T) {
	c := catalog.New(memmeta.New())
	mine, slot := owner(t, c, 1)
	if slot.Epoch != 0 || slot.Owner != mine.ID {
		t.Fatalf("%+v", slot)
	}
	other := must[catalog.Session](t)(c.StartSession(t.Context(), 2, "", ""))
	_, err := c.TakeSlots(t.Context(), other, nil, []catalog.Slot{slot}, nil)
	wantErr(t, err, catalog.ErrFenced)
	_, err = c.TakeSlots(t.Context(), other, map[catalog.SessionID]catalog.Session{mine.ID: mine}, []catalog.Slot{slot}, nil)
	wantErr(t, err, catalog.ErrFenced) // not sealed

	// A trim in between is no obstacle to a checkpoint.
	must[catalog.Session](t)(c.SetTrim(t.Context(), mine, 3))
	slot.Spans[0].From = 4
	slot.Checkpoints = []catalog.CheckpointRef{{Key: "ckpt/1", Size: 10}}
	slots := must[[]catalog.Slot](t)(c.CommitCheckpoint(t.Context(), mine, []catalog.Slot{slot}))
	same(t, []catalog.Slot{slot}, slots)
	same(t, slots, must[[]catalog.Slot](t)(c.Slots(t.Context())))
	_, err = c.CommitCheckpoint(t.Context(), mine, []catalog.Slot{slot})
	wantErr(t, err, catalog.ErrFenced) // the item of before
	slots = must[[]catalog.Slot](t)(c.CommitCheckpoint(t.Context(), mine, slots))

	_, taken := takeOver(t, c, mine, slots[0])
	if taken.Epoch != 1 || taken.Owner.Broker != 2 {
		t.Fatalf("%+v", taken)
	}
	_, err = c.CommitCheckpoint(t.Context(), mine, slots)
	wantErr(t, err, catalog.ErrFenced)
}

// TestTakeForOthers: a commit gives slots to several, all of which live, and takes none of one that does.
func TestTakeForOthers(t *testing.T) {
	ctx, c := t.Context(), catalog.New(memmeta.New())
	gone, slot := owner(t, c, 1)
	mine := must[catalog.Session](t)(c.StartSession(ctx, 2, "", ""))
	other := must[catalog.Session](t)(c.StartSession(ctx, 3, "", ""))
	late := must[catalog.Session](t)(c.StartSession(ctx, 4, "", ""))
	gone = must[catalog.Session](t)(c.RecordSeal(ctx, must[catalog.Session](t)(c.FenceSession(ctx, gone)), 7))
	ended := map[catalog.SessionID]catalog.Session{gone.ID: gone}
	slots := []catalog.Slot{slot, {Slot: 1, Epoch: -1}}

	must[catalog.Session](t)(c.FenceSession(ctx, late))
	_, err := c.TakeSlots(ctx, mine, ended, slots, map[kafka.Slot]catalog.Session{1: late}) // read before it was fenced
	wantErr(t, err, catalog.ErrFenced)
	_, err = c.TakeSlots(ctx, mine, ended, slots, map[kafka.Slot]catalog.Session{1: gone})
	wantErr(t, err, catalog.ErrFenced)

	must[catalog.Session](t)(c.SetTrim(ctx, other, 3)) // no obstacle
	taken := must[[]catalog.Slot](t)(c.TakeSlots(ctx, mine, ended, slots, map[kafka.Slot]catalog.Session{0: other}))
	if taken[0].Owner != other.ID || taken[0].Epoch != 1 || taken[1].Owner != mine.ID || taken[1].Epoch != 0 {
		t.Fatalf("%+v", taken)
	}
	same(t, taken, must[[]catalog.Slot](t)(c.Slots(ctx)))
	if o := c.Members().Owner(0); o.Session != other.ID || o.Epoch != 1 {
		t.Fatalf("the feed tells %+v", o)
	}
	// Who should have a slot is live, which does not make it an owner that has ended.
	_, err = c.TakeSlots(ctx, mine, ended, []catalog.Slot{taken[1], taken[0]}, map[kafka.Slot]catalog.Session{1: other})
	wantErr(t, err, catalog.ErrFenced)
}

func TestLogStart(t *testing.T) {
	store := memmeta.New()
	c := catalog.New(store)
	mine, slot := owner(t, c, 4)
	topic := must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 2}))
	tp := kafka.TopicPartition{Topic: topic.ID, Partition: 1}
	for _, off := range []kafka.Offset{5, 9, 7} {
		ok(t, c.SetLogStart(t.Context(), slot, tp, off))
	}
	same(t, map[kafka.TopicPartition]kafka.Offset{tp: 9}, must[map[kafka.TopicPartition]kafka.Offset](t)(c.LogStarts(t.Context(), slot.Slot)))
	must[catalog.Session](t)(c.FenceSession(t.Context(), mine))
	wantErr(t, c.SetLogStart(t.Context(), slot, tp, 10), catalog.ErrFenced) // who takes the slot reads it from now on
	_, taken := takeOver(t, c, mine, slot)
	wantErr(t, c.SetLogStart(t.Context(), slot, tp, 10), catalog.ErrFenced)
	slot = taken
	ok(t, catalog.New(store).DeleteTopic(t.Context(), "t", kafka.TopicID{}))
	wantErr(t, c.SetLogStart(t.Context(), slot, tp, 10), catalog.ErrNotFound)
	ok(t, c.RemoveLogStart(t.Context(), slot.Slot, tp))
	ok(t, c.RemoveLogStart(t.Context(), slot.Slot, tp))
	same(t, map[kafka.TopicPartition]kafka.Offset{}, must[map[kafka.TopicPartition]kafka.Offset](t)(c.LogStarts(t.Context(), slot.Slot)))
}

func TestTopics(t *testing.T) {
	store := memmeta.New()
	c, other := catalog.New(store), catalog.New(store)
	topic := must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "a.b", Partitions: 3, ReplicationFactor: 2, Configs: map[string]string{"retention.ms": "5"}}))
	if topic.ID == (kafka.TopicID{}) {
		t.Fatal("no id")
	}
	seen, found := c.Topics().ByName("a.b") // one's own change, at once
	if !found {
		t.Fatal("not seen")
	}
	same(t, topic, *seen)
	_, err := c.CreateTopic(t.Context(), catalog.Topic{Name: "a.b"})
	wantErr(t, err, catalog.ErrExists)
	var collision *catalog.CollisionError
	if _, err = other.CreateTopic(t.Context(), catalog.Topic{Name: "a_b"}); !errors.As(err, &collision) || collision.With != "a.b" {
		t.Fatal(err)
	}
	ok(t, other.AddPartitions(t.Context(), "a.b", 5))
	wantErr(t, other.AddPartitions(t.Context(), "a.b", 5), catalog.ErrPartitions)
	wantErr(t, other.AddPartitions(t.Context(), "nope", 5), catalog.ErrNotFound)
	ok(t, other.AlterTopicConfigs(t.Context(), "a.b", func(m map[string]string) (map[string]string, error) {
		m["x"] = m["retention.ms"]
		return m, nil
	}))
	refused := errors.New("refused")
	wantErr(t, c.AlterTopicConfigs(t.Context(), "a.b", func(map[string]string) (map[string]string, error) { return nil, refused }), refused)
	ok(t, other.AlterBrokerConfigs(t.Context(), "", func(m map[string]string) (map[string]string, error) { m["y"] = "1"; return m, nil }))
	ok(t, c.Refresh(t.Context()))
	seen, _ = c.Topics().ByID(topic.ID)
	same(t, catalog.Topic{Name: "a.b", ID: topic.ID, Partitions: 5, ReplicationFactor: 2, Configs: map[string]string{"retention.ms": "5", "x": "5"}}, *seen)
	same(t, map[string]string{"y": "1"}, c.Topics().BrokerConfigs(""))

	ok(t, other.DeleteTopic(t.Context(), "a.b", kafka.TopicID{}))
	wantErr(t, other.DeleteTopic(t.Context(), "a.b", kafka.TopicID{}), catalog.ErrNotFound)
	must[catalog.Topic](t)(other.CreateTopic(t.Context(), catalog.Topic{Name: "a_b", Partitions: 1}))
	ok(t, c.Refresh(t.Context()))
	if _, found := c.Topics().ByID(topic.ID); found || c.Topics().Len() != 1 || c.Topics().All()[0].Name != "a_b" {
		t.Fatalf("%+v", c.Topics().All())
	}
	gone := must[[]catalog.DeletedTopic](t)(c.DeletedTopics(t.Context()))
	if len(gone) != 1 || gone[0].Name != "a.b" || gone[0].ID != topic.ID || gone[0].Partitions != 5 {
		t.Fatalf("%+v", gone)
	}
	ok(t, c.ForgetTopic(t.Context(), gone[0]))
	ok(t, c.ForgetTopic(t.Context(), gone[0]))
	if gone = must[[]catalog.DeletedTopic](t)(c.DeletedTopics(t.Context())); len(gone) != 0 {
		t.Fatalf("%+v", gone)
	}
	_, err = c.CreateTopic(t.Context(), catalog.Topic{Name: "big", Configs: map[string]string{"x": strings.Repeat("y", meta.MaxItemBytes)}})
	wantErr(t, err, catalog.ErrTooLarge)
}

// TestTopicRaces has several catalogues create names of which each two collide.
func TestTopicRaces(t *testing.T) {
	store := memmeta.New()
	names := []string{"a.b.c", "a_b.c", "a.b_c", "a_b_c"}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			c := catalog.New(store)
			var collision *catalog.CollisionError
			_, err := c.CreateTopic(t.Context(), catalog.Topic{Name: names[i%len(names)], Partitions: 1})
			if err != nil && !errors.Is(err, catalog.ErrExists) && !errors.As(err, &collision) {
				t.Error(err)
			}
			if c.Topics().Len() != 1 {
				t.Errorf("%d topics", c.Topics().Len())
			}
		})
	}
	wg.Wait()
}

func TestRunFollowsAndPrunes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memmeta.New()
		c, follower := catalog.New(store), catalog.New(store)
		for _, each := range []*catalog.Catalog{c, follower} {
			go func() {
				if err := each.Run(t.Context(), func(err error) { t.Error(err) }); err != nil {
					t.Error(err)
				}
			}()
		}
		time.Sleep(10 * time.Second)
		changed := follower.Changed()        // nothing happens, so nothing is told
		time.Sleep(10500 * time.Millisecond) // not together with a tick
		select {
		case <-changed:
			t.Error("a new snapshot without a change")
		default:
		}
		const n = 250
		for i := range n {
			must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: fmt.Sprint("t", i)}))
		}
		start := time.Now()
		<-changed
		if time.Since(start) > time.Second {
			t.Error("seen after", time.Since(start))
		}
		time.Sleep(1500 * time.Millisecond)
		late := catalog.New(store)
		ok(t, late.Refresh(t.Context()))
		for _, each := range []*catalog.Catalog{follower, late} {
			if each.Topics().Len() != n {
				t.Errorf("%d topics", each.Topics().Len())
			}
		}
		time.Sleep(2 * time.Hour)
		if items, _, err := store.Query(t.Context(), "changes", meta.Range{}); err != nil || len(items) != 1 {
			t.Errorf("%d changes are left, %v", len(items), err)
		}
		feed, _, err := store.Query(t.Context(), "changes", meta.Range{})
		ok(t, err)
		ahead := maps.Clone(feed[0].Attrs) // by a clock that was wrong
		ahead["at"] = time.Now().AddDate(1, 0, 0).UnixMilli()
		ok(t, store.Commit(t.Context(), meta.NewCommitID(), meta.Replace(feed[0], ahead)))
		ok(t, c.DeleteTopic(t.Context(), "t7", kafka.TopicID{}))
		time.Sleep(2 * time.Hour)
		if items, _, err := store.Query(t.Context(), "changes", meta.Range{}); err != nil || len(items) != 1 {
			t.Errorf("%d changes are left, %v", len(items), err)
		}
		ok(t, late.Refresh(t.Context())) // has missed the feed and reads all anew
		for _, each := range []*catalog.Catalog{follower, late} {
			if _, found := each.Topics().ByName("t7"); found || each.Topics().Len() != n-1 {
				t.Errorf("%d topics", each.Topics().Len())
			}
		}
	})
}

func TestProducerIDs(t *testing.T) {
	store := memmeta.New()
	var mu sync.Mutex
	var firsts []int64
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			first, err := catalog.New(store).ProducerIDBlock(t.Context(), 100)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			firsts = append(firsts, first)
		})
	}
	wg.Wait()
	slices.Sort(firsts)
	for i, first := range firsts {
		if first != int64(100*i) {
			t.Fatal(firsts)
		}
	}
}

func TestOverSQLite(t *testing.T) {
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "meta.db"))
	ok(t, err)
	defer store.Close()
	c := catalog.New(store)
	_, slot := owner(t, c, 1)
	topic := must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 1}))
	seg := catalog.Segment{TP: kafka.TopicPartition{Topic: topic.ID}, End: 4, Key: "k", FirstTimestamp: -1 << 63, MaxTimestamp: 1<<63 - 1}
	ok(t, c.AddSegment(t.Context(), slot, topic, seg))
	same(t, []catalog.Segment{seg}, must[[]catalog.Segment](t)(c.Segments(t.Context(), seg.TP, 0, 10)))
	g, _, err := c.LoadGroup(t.Context(), "g")
	ok(t, err)
	g.Value = make([]byte, 700<<10)
	g = must[catalog.GroupState](t)(c.SaveGroup(t.Context(), slot, g))
	ok(t, c.CommitOffsets(t.Context(), g, map[kafka.TopicPartition]catalog.GroupOffset{seg.TP: {Offset: 3}}, nil))
	again, offsets, err := catalog.New(store).LoadGroup(t.Context(), "g")
	ok(t, err)
	sameGroup(t, g, again)
	same(t, map[kafka.TopicPartition]catalog.GroupOffset{seg.TP: {Offset: 3}}, offsets)
}

func TestHeartbeats(t *testing.T) {
	c := catalog.New(memmeta.New())
	s := must[catalog.Session](t)(c.StartSession(t.Context(), 3, "host:1", "a"))
	h := must[catalog.Heartbeat](t)(c.Renew(t.Context(), catalog.Heartbeat{Session: s.ID, Applied: 4, WALNext: 5, Refused: []catalog.SessionID{{Broker: 9}}}))
	h = must[catalog.Heartbeat](t)(c.Renew(t.Context(), h))
	all := must[[]catalog.Heartbeat](t)(c.Heartbeats(t.Context()))
	if len(all) != 1 || all[0].Counter != 2 || all[0].Applied != 4 || all[0].WALNext != 5 || len(all[0].Refused) != 1 {
		t.Errorf("heartbeats: %+v", all)
	}
	must[catalog.Session](t)(c.SetTrim(t.Context(), s, 3)) // renewals have not disturbed it
	ok(t, c.RemoveHeartbeat(t.Context(), s.ID))
	ok(t, c.RemoveHeartbeat(t.Context(), s.ID))
	_, err := c.Renew(t.Context(), h)
	wantErr(t, err, catalog.ErrFenced)
}

func TestMembersFollowTheFeed(t *testing.T) {
	store := memmeta.New()
	c, other := catalog.New(store), catalog.New(store)
	ok(t, other.Refresh(t.Context()))
	mine, slot := owner(t, c, 1)
	target := must[catalog.Session](t)(c.StartSession(t.Context(), 2, "host:2", "b"))
	slot.Spans = []catalog.Span{{Session: mine.ID, To: 4}, {Session: target.ID, To: -1}}
	moved := must[[]catalog.Slot](t)(c.HandOver(t.Context(), mine, target, []catalog.Slot{slot}))[0]
	if moved.Owner != target.ID || moved.Epoch != slot.Epoch+1 {
		t.Errorf("handed over: %+v", moved)
	}
	_, err := c.KeepSlots(t.Context(), mine, []catalog.Slot{slot})
	wantErr(t, err, catalog.ErrFenced) // it is another's
	kept := must[[]catalog.Slot](t)(c.KeepSlots(t.Context(), target, []catalog.Slot{moved}))[0]
	must[catalog.Session](t)(c.RecordSeal(t.Context(), must[catalog.Session](t)(c.FenceSession(t.Context(), mine)), 4))
	target = must[catalog.Session](t)(c.AnnounceLeave(t.Context(), target))
	ok(t, c.AlterPlacement(t.Context(), func(p *catalog.Placement) { p.Drained = []int32{2} }))
	reloaded := catalog.New(store)
	ok(t, other.Refresh(t.Context()))
	ok(t, reloaded.Refresh(t.Context()))
	for name, m := range map[string]*catalog.Members{"made": c.Members(), "followed": other.Members(), "reloaded": reloaded.Members()} {
		same(t, []catalog.Member{{ID: target.ID, State: catalog.Live, Addr: "host:2", Rack: "b", Leaving: true, Levels: catalog.Levels{Min: catalog.MinLevel, Max: catalog.Level}}}, m.Live())
		same(t, []catalog.Owner{{Session: target.ID, Epoch: kept.Epoch}, {Epoch: -1}}, m.Owners(2))
		same(t, []int32{2}, m.Placement().Drained)
		if len(m.Fenced()) != 0 {
			t.Errorf("%s: fenced %v", name, m.Fenced())
		}
	}
	_, err = c.HandOver(t.Context(), mine, target, []catalog.Slot{slot})
	wantErr(t, err, catalog.ErrFenced)
}

// Nothing is handed over to a session that has been ended, even if it is read after that.
func TestHandOverToEnded(t *testing.T) {
	c := catalog.New(memmeta.New())
	mine, slot := owner(t, c, 1)
	target := must[catalog.Session](t)(c.StartSession(t.Context(), 2, "host:2", "b"))
	slot.Spans = []catalog.Span{{Session: mine.ID, To: 4}, {Session: target.ID, To: -1}}
	fenced := must[catalog.Session](t)(c.FenceSession(t.Context(), target))
	sealed := must[catalog.Session](t)(c.RecordSeal(t.Context(), fenced, 4))
	for _, to := range []catalog.Session{target, fenced, sealed} {
		_, err := c.HandOver(t.Context(), mine, to, []catalog.Slot{slot})
		wantErr(t, err, catalog.ErrFenced)
	}
}

func TestFollowSession(t *testing.T) {
	c := catalog.New(memmeta.New())
	first := must[catalog.Session](t)(c.StartSession(t.Context(), 3, "host:1", "a"))
	second := must[catalog.Session](t)(c.FollowSession(t.Context(), first))
	if second.ID.Epoch != first.ID.Epoch+1 || second.Addr != first.Addr || second.Nonce == first.Nonce {
		t.Errorf("followed by %+v", second)
	}
	_, err := c.FollowSession(t.Context(), first)
	wantErr(t, err, catalog.ErrSuperseded)
}
