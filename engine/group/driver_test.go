package group_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/varvelog/varve/engine/group"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// world is a store with a topic "t" of 4 partitions, and slot 0, which holds all groups.
type world struct {
	t     *testing.T
	store *memmeta.Store
	mine  catalog.Session
	slot  catalog.Slot
	topic catalog.Topic

	registry prometheus.Registerer // of the coordinators that are started; nil: none
	inTxn    func(context.Context, group.Transaction, string, bool) (int32, kafka.ErrorCode)

	live  bool // a running coordinator sees changes of owned
	owned func() (catalog.Slot, bool)
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: memmeta.New()}
	cat := catalog.New(w.store)
	var err error
	w.mine, err = cat.StartSession(t.Context(), 1, "h:1", "")
	w.check(err)
	slots, err := cat.TakeSlots(t.Context(), w.mine, nil, []catalog.Slot{{Epoch: -1, Spans: []catalog.Span{{Session: w.mine.ID, To: -1}}}}, nil)
	w.check(err)
	w.slot = slots[0]
	w.topic, err = cat.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 4, ReplicationFactor: 1})
	w.check(err)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// takeOver gives the slot to another session.
func (w *world) takeOver() {
	ctx, cat := w.t.Context(), catalog.New(w.store)
	s, err := cat.FenceSession(ctx, w.mine)
	w.check(err)
	s, err = cat.RecordSeal(ctx, s, 0)
	w.check(err)
	w.mine, err = cat.StartSession(ctx, w.mine.ID.Broker+1, "h:2", "")
	w.check(err)
	slots, err := cat.Slots(ctx)
	w.check(err)
	slots, err = cat.TakeSlots(ctx, w.mine, map[catalog.SessionID]catalog.Session{s.ID: s}, slots[:1], nil)
	w.check(err)
	w.slot = slots[0]
}

// start runs a coordinator that owns the slot as it is now, until the returned stop.
func (w *world) start(settings ...string) (*group.Coordinator, func()) {
	kv := map[string]string{"group.initial.rebalance.delay.ms": "0"}
	for i := 0; i < len(settings); i += 2 {
		kv[settings[i]] = settings[i+1]
	}
	cfg, err := config.ParseBroker(kv)
	w.check(err)
	cat := catalog.New(w.store)
	w.check(cat.Refresh(w.t.Context()))
	slot := w.slot
	w.owned = func() (catalog.Slot, bool) { return slot, true }
	owned := &w.owned
	if !w.live {
		now := w.owned
		owned = &now
	}
	c := group.New(group.Options{
		Catalog: cat, Config: func() *config.Broker { return cfg },
		Slot:       func(string) (catalog.Slot, bool) { return (*owned)() },
		Slots:      func() []catalog.Slot { return []catalog.Slot{slot} },
		Registerer: w.registry, InTxn: w.inTxn,
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	synctest.Wait()
	return c, func() { cancel(); wg.Wait() }
}

func joinReq(id string, version int16) *kmsg.JoinGroupRequest {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version, r.Group, r.MemberID, r.ProtocolType = version, "g", id, "consumer"
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 10000, 10000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	r.Protocols = append(r.Protocols, p)
	return r
}

func syncReq(id string, gen int32, assign ...string) *kmsg.SyncGroupRequest {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Version, r.Group, r.MemberID, r.Generation = 3, "g", id, gen
	for _, m := range assign {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = m, []byte("of "+m)
		r.GroupAssignment = append(r.GroupAssignment, a)
	}
	return r
}

func commitReq(g, member string, gen int32, topic string, offset int64) *kmsg.OffsetCommitRequest {
	r := kmsg.NewPtrOffsetCommitRequest()
	r.Version, r.Group, r.MemberID, r.Generation = 8, g, member, gen
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset, p.LeaderEpoch, p.Metadata = offset, 0, kmsg.StringPtr("m")
	t.Partitions = append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return r
}

func commit(t *testing.T, c *group.Coordinator, r *kmsg.OffsetCommitRequest) kafka.ErrorCode {
	return kafka.ErrorCode(c.OffsetCommit(t.Context(), r).Topics[0].Partitions[0].ErrorCode)
}

func heartbeat(t *testing.T, c *group.Coordinator, g, id string, gen int32) kafka.ErrorCode {
	r := kmsg.NewPtrHeartbeatRequest()
	r.Version, r.Group, r.MemberID, r.Generation = 3, g, id, gen
	return kafka.ErrorCode(c.Heartbeat(t.Context(), r).ErrorCode)
}

// fetch returns the offset of t-0, as version 8 tells it.
func fetch(t *testing.T, c *group.Coordinator, g string) (int64, kafka.ErrorCode) {
	r := kmsg.NewPtrOffsetFetchRequest()
	r.Version = 8
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = g
	rt := kmsg.NewOffsetFetchRequestGroupTopic()
	rt.Topic, rt.Partitions = "t", []int32{0}
	rg.Topics = append(rg.Topics, rt)
	r.Groups = append(r.Groups, rg)
	got := c.OffsetFetch(t.Context(), r).Groups[0]
	if got.ErrorCode != 0 {
		return -1, kafka.ErrorCode(got.ErrorCode)
	}
	return got.Topics[0].Partitions[0].Offset, kafka.None
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// stable joins one member of version 3 and makes the group stable.
func stable(t *testing.T, c *group.Coordinator) *kmsg.JoinGroupResponse {
	t.Helper()
	j := c.Join(t.Context(), joinReq("", 3), "cl", "/h")
	want(t, "join", j.ErrorCode, 0)
	want(t, "sync", c.Sync(t.Context(), syncReq(j.MemberID, j.Generation, j.MemberID)).ErrorCode, 0)
	return j
}

func describe(t *testing.T, c *group.Coordinator, version int16, groups ...string) string {
	r := kmsg.NewPtrDescribeGroupsRequest()
	r.Version, r.Groups = version, groups
	s := ""
	for _, g := range c.Describe(t.Context(), r).Groups {
		s += fmt.Sprintf("%s %d %s %q %d; ", g.Group, g.ErrorCode, g.State, g.Protocol, len(g.Members))
	}
	return s
}

func deleteGroups(t *testing.T, c *group.Coordinator, groups ...string) string {
	r := kmsg.NewPtrDeleteGroupsRequest()
	r.Version, r.Groups = 2, groups
	s := ""
	for _, g := range c.Delete(t.Context(), r).Groups {
		s += fmt.Sprintf("%s %d; ", g.Group, g.ErrorCode)
	}
	return s
}

func list(t *testing.T, c *group.Coordinator, states, types []string) string {
	r := kmsg.NewPtrListGroupsRequest()
	r.Version, r.StatesFilter, r.TypesFilter = 5, states, types
	resp := c.List(t.Context(), r)
	s := fmt.Sprintf("%d: ", resp.ErrorCode)
	for _, g := range resp.Groups {
		s += fmt.Sprintf("%s %s %s %s; ", g.Group, g.ProtocolType, g.GroupState, g.GroupType)
	}
	return s
}

// TestProbe repeats what was asked of Apache Kafka 4.3.1, with its answers.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start()
		defer stop()
		join := func(what string, r *kmsg.JoinGroupRequest, code kafka.ErrorCode, gen int32, proto string, leader, member bool, members int) *kmsg.JoinGroupResponse {
			t.Helper()
			x := c.Join(t.Context(), r, "probe", "/1.2.3.4")
			got := fmt.Sprint(x.ErrorCode, x.Generation, *x.Protocol, x.LeaderID != "", x.MemberID != "", len(x.Members))
			want(t, what, got, fmt.Sprint(int16(code), gen, proto, leader, member, members))
			return x
		}
		x := join("empty member", joinReq("", 4), kafka.MemberIDRequired, -1, "", false, true, 0)
		r := joinReq("", 4)
		r.SessionTimeoutMillis = 1
		join("session timeout", r, kafka.InvalidSessionTimeout, -1, "", false, false, 0)
		join("unknown member", joinReq("bogus", 4), kafka.UnknownMemberID, -1, "", false, true, 0)
		x = join("with member", joinReq(x.MemberID, 4), kafka.None, 1, "range", true, true, 1)
		want(t, "heartbeat in CompletingRebalance", heartbeat(t, c, "g", x.MemberID, 1), kafka.None)
		want(t, "sync", c.Sync(t.Context(), syncReq(x.MemberID, 1, x.MemberID)).ErrorCode, 0)
		want(t, "wrong generation", heartbeat(t, c, "g", x.MemberID, 77), kafka.IllegalGeneration)
		want(t, "wrong member", heartbeat(t, c, "g", "zzz", 1), kafka.UnknownMemberID)
		want(t, "unknown group", heartbeat(t, c, "nogroup", "zzz", 1), kafka.UnknownMemberID)
		r = joinReq("", 4)
		r.ProtocolType, r.Protocols[0].Name = "connect", "other"
		join("inconsistent type", r, kafka.InconsistentGroupProtocol, -1, "", false, false, 0)
		want(t, "commit", commit(t, c, commitReq("g", x.MemberID, 1, "t", 3)), kafka.None)
		want(t, "bad gen", commit(t, c, commitReq("g", x.MemberID, 6, "t", 3)), kafka.IllegalGeneration)
		want(t, "simple on active", commit(t, c, commitReq("g", "", -1, "t", 3)), kafka.UnknownMemberID)
		want(t, "simple", commit(t, c, commitReq("s", "", -1, "t", 3)), kafka.None)
		want(t, "gen=5 unknown group", commit(t, c, commitReq("s2", "m", 5, "t", 3)), kafka.IllegalGeneration)
		want(t, "unknown topic", commit(t, c, commitReq("s", "", -1, "nope", 3)), kafka.UnknownTopicOrPartition)
		off, code := fetch(t, c, "never")
		want(t, "fetch of unknown group", fmt.Sprint(off, code), fmt.Sprint(-1, kafka.None))
		want(t, "describe v5", describe(t, c, 5, "never", "g"), `never 0 Dead "" 0; g 0 Stable "range" 1; `)
		want(t, "describe v6", describe(t, c, 6, "never", "g"), `never 69 Dead "" 0; g 0 Stable "range" 1; `)
		want(t, "list", list(t, c, nil, nil), "0: g consumer Stable classic; s  Empty classic; ")
		want(t, "list stable", list(t, c, []string{"stable"}, []string{"Classic"}), "0: g consumer Stable classic; ")
		want(t, "list others", list(t, c, nil, []string{"share"}), "0: ")
		want(t, "delete", deleteGroups(t, c, "never", "g", "s"), "never 69; g 68; s 0; ")
		lr := kmsg.NewPtrLeaveGroupRequest()
		lr.Version, lr.Group = 4, "g"
		lr.Members = []kmsg.LeaveGroupRequestMember{{MemberID: x.MemberID}, {MemberID: "zz"}}
		l := c.Leave(t.Context(), lr)
		want(t, "leave", fmt.Sprint(l.ErrorCode, l.Members[0].ErrorCode, l.Members[1].ErrorCode), "0 0 25")
	})
}

func TestManyMembersRebalanceTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start("group.initial.rebalance.delay.ms", "3000")
		defer stop()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				j := c.Join(t.Context(), joinReq("", 3), "cl", "/h")
				var all []string
				for _, m := range j.Members {
					all = append(all, m.MemberID)
				}
				s := c.Sync(t.Context(), syncReq(j.MemberID, j.Generation, all...))
				if j.Generation != 1 || string(s.MemberAssignment) != "of "+j.MemberID {
					t.Errorf("member %s: generation %d, error %d, assignment %q", j.MemberID, j.Generation, s.ErrorCode, s.MemberAssignment)
				}
			})
		}
		wg.Wait()
		want(t, "describe", describe(t, c, 5, "g"), `g 0 Stable "range" 50; `)
	})
}

// TestTakeover: the next owner goes on with members and offsets, and the former one can write nothing more
// of what the next one has loaded, or what has members.
func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old, stop := w.start()
		defer stop()
		j := stable(t, old)
		want(t, "commit", commit(t, old, commitReq("g", j.MemberID, 1, "t", 5)), kafka.None)
		want(t, "simple", commit(t, old, commitReq("s", "", -1, "t", 6)), kafka.None)
		w.takeOver()
		c, stop2 := w.start()
		defer stop2()
		want(t, "heartbeat", heartbeat(t, c, "g", j.MemberID, 1), kafka.None)
		off, _ := fetch(t, c, "g")
		want(t, "offset", off, 5)
		_, code := fetch(t, old, "g")
		want(t, "a late fetch, of what others may have gone past", code, kafka.NotCoordinator)
		want(t, "a late commit", commit(t, old, commitReq("g", j.MemberID, 1, "t", 9)), kafka.NotCoordinator)
		want(t, "a late commit to a group that nobody has loaded", commit(t, old, commitReq("s", "", -1, "t", 8)), kafka.None)
		off, _ = fetch(t, c, "s")
		want(t, "what was acknowledged late", off, 8)
		want(t, "a later commit", commit(t, old, commitReq("s", "", -1, "t", 9)), kafka.NotCoordinator)
		want(t, "a late group", commit(t, old, commitReq("new", "", -1, "t", 9)), kafka.NotCoordinator)
		want(t, "a late join", old.Join(t.Context(), joinReq("", 3), "", "").ErrorCode, int16(kafka.NotCoordinator))
		off, _ = fetch(t, c, "g")
		want(t, "offset", off, 5)
		want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 7)), kafka.None)
		time.Sleep(11 * time.Second) // the session
		want(t, "heartbeat", heartbeat(t, c, "g", j.MemberID, 1), kafka.UnknownMemberID)
	})
}

// TestOffsetsHaveAGroup: offsets are written only behind a state of their group, also when somebody had asked for a member id and
// left; those that were once written without one are read all the same.
func TestOffsetsHaveAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cat := catalog.New(w.store)
		saved := func(id string) bool {
			g, err := cat.ReadGroupState(t.Context(), id)
			w.check(err)
			return len(g.Value) > 0
		}
		c, stop := w.start()
		j := c.Join(t.Context(), joinReq("", 4), "", "")
		want(t, "join", j.ErrorCode, int16(kafka.MemberIDRequired))
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = "g", j.MemberID
		want(t, "leave", c.Leave(t.Context(), leave).ErrorCode, 0)
		want(t, "commit", commit(t, c, commitReq("g", "", -1, "t", 5)), kafka.None)
		want(t, "the group is saved", saved("g"), true)
		stop()

		orphan, _, err := cat.LoadGroup(t.Context(), "o")
		w.check(err)
		at := kafka.TopicPartition{Topic: w.topic.ID}
		w.check(cat.CommitOffsets(t.Context(), orphan, map[kafka.TopicPartition]catalog.GroupOffset{at: {Offset: 7}}, nil))
		w.takeOver()
		c, stop = w.start()
		defer stop()
		for id, offset := range map[string]int64{"g": 5, "o": 7} {
			off, code := fetch(t, c, id)
			want(t, "offset of "+id, off, offset)
			want(t, "code of "+id, code, kafka.None)
			want(t, "saved: "+id, saved(id), true)
		}
	})
}

func TestNothingLeavesBeforeItIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		defer stop()
		w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
			if op == "commit" {
				return memmeta.Fault{Before: time.Second}
			}
			return memmeta.Fault{}
		}
		took := func(what string, d time.Duration, f func()) {
			t.Helper()
			start := time.Now()
			f()
			want(t, what, time.Since(start), d)
		}
		var j *kmsg.JoinGroupResponse
		took("join", time.Second, func() { j = c.Join(t.Context(), joinReq("", 3), "", "") })
		took("heartbeat", 0, func() { heartbeat(t, c, "g", j.MemberID, 1) })
		var wg sync.WaitGroup
		wg.Go(func() {
			took("sync", time.Second, func() { c.Sync(t.Context(), syncReq(j.MemberID, 1, j.MemberID)) })
		})
		synctest.Wait()
		took("describe, which shows the assignment", time.Second, func() { want(t, "state", describe(t, c, 5, "g"), `g 0 Stable "range" 1; `) })
		wg.Wait()
		took("describe", 0, func() { describe(t, c, 5, "g") })
		took("commit", time.Second, func() { commit(t, c, commitReq("g", j.MemberID, 1, "t", 5)) })
		took("first simple commit", 2*time.Second, func() { commit(t, c, commitReq("s", "", -1, "t", 5)) })
		took("delete, which fences, empties and removes", 3*time.Second, func() { deleteGroups(t, c, "s") })
	})
}

func TestCommitsCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		defer stop()
		want(t, "first", commit(t, c, commitReq("s", "", -1, "t", 0)), kafka.None)
		var mu sync.Mutex
		commits := 0
		w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
			if op != "commit" {
				return memmeta.Fault{}
			}
			mu.Lock()
			commits++
			mu.Unlock()
			return memmeta.Fault{Before: 10 * time.Millisecond}
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", int64(i))), kafka.None) })
		}
		wg.Wait()
		want(t, "commits of 100 requests", commits, 2)
	})
}

func TestCommitInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start("offsets.commit.interval.ms", "100")
		defer stop()
		start := time.Now()
		for i := range 4 {
			want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", int64(i))), kafka.None)
		}
		want(t, "time of 4 commits", time.Since(start), 300*time.Millisecond)
	})
}

func TestRetentionAndMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start("offsets.retention.minutes", "60")
		defer stop()
		j := stable(t, c)
		want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 5)), kafka.None)
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 6)), kafka.None)
		want(t, "commit", commit(t, c, commitReq("", "", -1, "t", 7)), kafka.None)
		time.Sleep(50 * time.Minute)
		want(t, "list", list(t, c, nil, nil), "0:   Empty classic; g consumer Empty classic; s  Empty classic; ")
		off, _ := fetch(t, c, "")
		want(t, "offset", off, 7)
		time.Sleep(30 * time.Minute)
		want(t, "expired", w.turn(hour), 3)
		want(t, "list", list(t, c, nil, nil), "0: ")
		want(t, "groups in memory", c.Loaded(), 0)
	})
}

func TestStopAnswersAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		stable(t, c)
		var wg sync.WaitGroup
		wg.Go(func() {
			want(t, "join", c.Join(t.Context(), joinReq("", 3), "", "").ErrorCode, int16(kafka.NotCoordinator))
		})
		synctest.Wait()
		stop()
		wg.Wait()
		want(t, "after", heartbeat(t, c, "g", "m", 1), kafka.NotCoordinator)
	})
}

func TestCallerMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start("group.initial.rebalance.delay.ms", "3000")
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Join(ctx, joinReq("", 3), "", "")
		want(t, "describe", describe(t, c, 5, "g"), `g 0 PreparingRebalance "" 1; `)
		time.Sleep(time.Minute) // it is a member until its session ends
		want(t, "describe", describe(t, c, 5, "g"), `g 0 Empty "" 0; `)
	})
}

// TestSlotGoesMeanwhile: what waits is answered when the slot has gone, and a
// write that ends afterwards changes nothing.
func TestSlotGoesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.live = true
		c, stop := w.start()
		defer stop()
		j := stable(t, c)
		w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault { return memmeta.Fault{Before: time.Second} }
		var wg sync.WaitGroup
		wg.Go(func() {
			want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 5)), kafka.NotCoordinator)
		})
		synctest.Wait()
		had, _ := w.owned()
		w.owned = func() (catalog.Slot, bool) { return catalog.Slot{}, false }
		want(t, "heartbeat", heartbeat(t, c, "g", j.MemberID, 1), kafka.NotCoordinator)
		wg.Wait()
		time.Sleep(20 * time.Second)
		want(t, "groups in memory", c.Loaded(), 0)
		w.owned = func() (catalog.Slot, bool) { return had, true }
		want(t, "heartbeat", heartbeat(t, c, "g", j.MemberID, 1), kafka.None)
	})
}

func TestIdleGroupsLeaveMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start()
		defer stop()
		want(t, "heartbeat", heartbeat(t, c, "no", "m", 1), kafka.UnknownMemberID)
		synctest.Wait()
		want(t, "in memory of a group that is not there", c.Loaded(), 0)
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 5)), kafka.None)
		want(t, "in memory", c.Loaded(), 1)
		time.Sleep(2 * time.Minute)
		want(t, "in memory when idle", c.Loaded(), 0)
		want(t, "list", list(t, c, nil, nil), "0: s  Empty classic; ")
		want(t, "in memory when listed", c.Loaded(), 0)
		off, _ := fetch(t, c, "s")
		want(t, "offset", off, 5)
	})
}

// TestExpiryLeavesWhatIsBeingWritten: an offset expires while its next one is on its way.
func TestExpiryLeavesWhatIsBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var slow atomic.Bool
		w.store.Hook = func(string, []meta.Op) memmeta.Fault {
			if slow.Load() {
				return memmeta.Fault{After: 4 * time.Second}
			}
			return memmeta.Fault{}
		}
		c, stop := w.start("offsets.retention.minutes", "60", "offsets.retention.check.interval.ms", "10000")
		defer stop()
		time.Sleep(5 * time.Second)
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 5)), kafka.None)
		time.Sleep(time.Hour - time.Second)
		slow.Store(true)
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 6)), kafka.None)
		slow.Store(false)
		time.Sleep(20 * time.Second)
		off, _ := fetch(t, c, "s")
		want(t, "offset", off, 6)
	})
}
