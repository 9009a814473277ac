package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// world is what a step stands on.
type world struct {
	t     *testing.T
	store *memmeta.Store
	c     *catalog.Catalog
	mine  catalog.Session
	slot  catalog.Slot
	topic catalog.Topic
	tp    kafka.TopicPartition
	group catalog.GroupState
	segs  []catalog.Segment
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: memmeta.New()}
	w.c = catalog.New(w.store)
	w.mine, w.slot = owner(t, w.c, 1)
	w.topic = must[catalog.Topic](t)(w.c.CreateTopic(t.Context(), catalog.Topic{Name: "t", Partitions: 1}))
	w.tp.Topic = w.topic.ID
	for i := range kafka.Offset(3) {
		ok(t, w.c.AddSegment(t.Context(), w.slot, w.topic, catalog.Segment{TP: w.tp, Base: i, End: i + 1, Key: fmt.Sprint(i)}))
	}
	w.segs = must[[]catalog.Segment](t)(w.c.Segments(t.Context(), w.tp, 0, 0))
	w.group, _ = load(t, w.c, "g")
	w.group.Value = []byte("state")
	w.group = must[catalog.GroupState](t)(w.c.SaveGroup(t.Context(), w.slot, w.group))
	ok(t, w.c.CommitOffsets(t.Context(), w.group, offsets{w.tp: {Offset: 1}}, nil))
	return w
}

// steps are the writes of the catalogue: do writes with faults, see looks
// without whether it is done, exactly once.
var steps = map[string]struct {
	do  func(ctx context.Context, w *world) error
	see func(w *world, c *catalog.Catalog)
}{
	"cluster": {
		func(ctx context.Context, w *world) error { _, err := w.c.Cluster(ctx, 7); return err },
		func(w *world, c *catalog.Catalog) {
			if cl := must[catalog.Cluster](w.t)(c.Cluster(w.t.Context(), 8)); cl.Slots != 7 {
				w.t.Errorf("%+v", cl)
			}
		},
	},
	"raise level": {
		func(ctx context.Context, w *world) error {
			if _, err := w.c.Cluster(ctx, 7); err != nil {
				return err
			}
			return w.c.RaiseLevel(ctx, catalog.Level)
		},
		func(w *world, c *catalog.Catalog) {
			ok(w.t, c.Refresh(w.t.Context()))
			if c.Level() != catalog.Level {
				w.t.Errorf("level %d", c.Level())
			}
		},
	},
	"restore": {
		func(ctx context.Context, w *world) error {
			r := w.c.Restorer()
			err := r.Begin(ctx, true)
			for _, fn := range []func() error{
				func() error { return r.Topics(ctx, []catalog.Topic{w.topic}) },
				func() error { return r.Segments(ctx, w.tp, w.segs[1:]) },
				func() error { return r.LogStarts(ctx, 0, map[kafka.TopicPartition]kafka.Offset{w.tp: 1}) },
				func() error { return r.Slots(ctx, []catalog.Slot{w.slot}) },
				func() error { return r.Sessions(ctx, map[int32]int64{1: 4, 2: 5}, []catalog.Session{w.mine}) },
				func() error { return r.ProducerIDs(ctx, 77) },
				func() error { return r.LeaseEpoch(ctx, "compact", 5) },
				func() error { return r.Brokers(ctx, map[string]map[string]string{"": {"a": "b"}}) },
				func() error { return r.Finish(ctx, catalog.Cluster{ID: "x", Slots: 7, Level: catalog.Level}) },
			} {
				if err == nil {
					err = fn()
				}
			}
			return err
		},
		func(w *world, c *catalog.Catalog) {
			ctx := w.t.Context()
			if cl := must[catalog.Cluster](w.t)(c.ReadCluster(ctx)); cl.ID != "x" || cl.Slots != 7 {
				w.t.Errorf("%+v", cl)
			}
			if segs := must[[]catalog.Segment](w.t)(c.Segments(ctx, w.tp, 0, 0)); len(segs) != 2 || segs[0].Base != 1 {
				w.t.Errorf("%+v", segs)
			}
			if s := must[catalog.Session](w.t)(c.StartSession(ctx, 2, "", "")); s.ID.Epoch != 6 {
				w.t.Errorf("session %+v", s.ID)
			}
			if pid := must[int64](w.t)(c.ProducerIDBlock(ctx, 1)); pid != 77 {
				w.t.Errorf("producer id %d", pid)
			}
			same(w.t, map[kafka.TopicPartition]kafka.Offset{w.tp: 1}, must[map[kafka.TopicPartition]kafka.Offset](w.t)(c.LogStarts(ctx, 0)))
			same(w.t, "b", c.Topics().BrokerConfigs("")["a"])
		},
	},
	"start session": {
		func(ctx context.Context, w *world) (err error) {
			w.mine, err = w.c.StartSession(ctx, 1, "", "")
			return err
		},
		func(w *world, c *catalog.Catalog) {
			all := must[[]catalog.Session](w.t)(c.Sessions(w.t.Context(), 1))
			if len(all) != 2 {
				w.t.Fatalf("%+v", all)
			}
			same(w.t, w.mine, all[1])
			must[catalog.Session](w.t)(c.SetTrim(w.t.Context(), w.mine, 3)) // the item that is returned serves
		},
	},
	"fence, seal and trim": {
		func(ctx context.Context, w *world) (err error) {
			if w.mine, err = w.c.FenceSession(ctx, w.mine); err != nil {
				return err
			}
			if w.mine, err = w.c.RecordSeal(ctx, w.mine, 5); err != nil {
				return err
			}
			w.mine, err = w.c.SetTrim(ctx, w.mine, 4)
			return err
		},
		func(w *world, c *catalog.Catalog) {
			same(w.t, []catalog.Session{w.mine}, must[[]catalog.Session](w.t)(c.Sessions(w.t.Context(), 1)))
			if w.mine.SealedAt != 5 || w.mine.Trim != 4 || w.mine.State != catalog.Sealed {
				w.t.Errorf("%+v", w.mine)
			}
			ok(w.t, c.RemoveSession(w.t.Context(), w.mine))
		},
	},
	"take over": {
		func(ctx context.Context, w *world) error {
			old := w.mine
			var err error
			if old, err = w.c.RecordSeal(ctx, old, 5); err != nil {
				return err
			}
			if w.mine, err = w.c.StartSession(ctx, 1, "", ""); err != nil {
				return err
			}
			slots, err := w.c.TakeSlots(ctx, w.mine, map[catalog.SessionID]catalog.Session{old.ID: old}, []catalog.Slot{w.slot, {Slot: 1, Epoch: -1}}, nil)
			if err == nil {
				w.slot = slots[0]
			}
			return err
		},
		func(w *world, c *catalog.Catalog) {
			slots := must[[]catalog.Slot](w.t)(c.Slots(w.t.Context()))
			if len(slots) != 2 || slots[0].Epoch != 1 || slots[1].Epoch != 0 || slots[0].Owner != w.mine.ID {
				w.t.Fatalf("%+v", slots)
			}
			must[[]catalog.Slot](w.t)(c.CommitCheckpoint(w.t.Context(), w.mine, []catalog.Slot{w.slot}))
		},
	},
	"checkpoint": {
		func(ctx context.Context, w *world) error {
			w.slot.Spans[0].From++
			slots, err := w.c.CommitCheckpoint(ctx, w.mine, []catalog.Slot{w.slot})
			if err == nil {
				w.slot = slots[0]
			}
			return err
		},
		func(w *world, c *catalog.Catalog) {
			same(w.t, []catalog.Slot{w.slot}, must[[]catalog.Slot](w.t)(c.Slots(w.t.Context())))
			must[[]catalog.Slot](w.t)(c.CommitCheckpoint(w.t.Context(), w.mine, []catalog.Slot{w.slot}))
		},
	},
	"log start": {
		func(ctx context.Context, w *world) error { return w.c.SetLogStart(ctx, w.slot, w.tp, 2) },
		func(w *world, c *catalog.Catalog) {
			same(w.t, map[kafka.TopicPartition]kafka.Offset{w.tp: 2}, must[map[kafka.TopicPartition]kafka.Offset](w.t)(c.LogStarts(w.t.Context(), 0)))
		},
	},
	"add and remove segments": {
		func(ctx context.Context, w *world) error {
			if err := w.c.AddSegment(ctx, w.slot, w.topic, catalog.Segment{TP: w.tp, Base: 3, End: 4, Key: "3"}); err != nil {
				return err
			}
			return w.c.SwapSegments(ctx, catalog.Swap{Topic: &w.topic, Old: w.segs})
		},
		func(w *world, c *catalog.Catalog) {
			same(w.t, []catalog.Segment{{TP: w.tp, Base: 3, End: 4, Key: "3"}}, must[[]catalog.Segment](w.t)(c.Segments(w.t.Context(), w.tp, 0, 0)))
		},
	},
	"topics": {
		func(ctx context.Context, w *world) error {
			_, err := w.c.CreateTopic(ctx, catalog.Topic{Name: "u", Partitions: 1, Configs: map[string]string{"n": ""}})
			if err != nil {
				return err
			}
			if err := w.c.AddPartitions(ctx, "u", 2); err != nil {
				return err
			}
			if err := w.c.AlterTopicConfigs(ctx, "u", appendX); err != nil {
				return err
			}
			if err := w.c.AlterBrokerConfigs(ctx, "1", appendX); err != nil {
				return err
			}
			if err := w.c.DeleteTopic(ctx, "t", kafka.TopicID{}); err != nil {
				return err
			}
			_, err = w.c.CreateTopic(ctx, catalog.Topic{Name: "t", Partitions: 9})
			return err
		},
		func(w *world, c *catalog.Catalog) {
			ok(w.t, c.Refresh(w.t.Context()))
			all := c.Topics().All()
			if len(all) != 2 || all[0].Partitions != 9 || all[0].ID == w.topic.ID || all[1].Partitions != 2 || all[1].Configs["n"] != "x" {
				w.t.Errorf("%+v", all)
			}
			if n := c.Topics().BrokerConfigs("1")["n"]; n != "x" {
				w.t.Errorf("applied otherwise than once: %q", n)
			}
			if gone := must[[]catalog.DeletedTopic](w.t)(c.DeletedTopics(w.t.Context())); len(gone) != 1 || gone[0].ID != w.topic.ID {
				w.t.Errorf("%+v", gone)
			}
			same(w.t, all, w.c.Topics().All()) // the writer sees its own changes
		},
	},
	"group": {
		func(ctx context.Context, w *world) (err error) {
			w.group.Value = make([]byte, 300<<10)
			if w.group, err = w.c.SaveGroup(ctx, w.slot, w.group); err != nil {
				return err
			}
			if err = w.c.CommitOffsets(ctx, w.group, offsets{w.tp: {Offset: 7}}, nil); err != nil {
				return err
			}
			return w.c.CommitOffsets(ctx, w.group, offsets{w.tp: {Offset: 8}}, nil)
		},
		func(w *world, c *catalog.Catalog) {
			g, got := load(w.t, c, "g")
			sameGroup(w.t, w.group, g)
			same(w.t, offsets{w.tp: {Offset: 8}}, got)
			must[catalog.GroupState](w.t)(c.SaveGroup(w.t.Context(), w.slot, w.group))
		},
	},
	"delete group": {
		func(ctx context.Context, w *world) error { return w.c.DeleteGroup(ctx, w.slot, w.group) },
		func(w *world, c *catalog.Catalog) {
			if g, got := load(w.t, c, "g"); len(g.Value) != 0 || len(got) != 0 {
				w.t.Errorf("%+v, %v", g, got)
			}
		},
	},
	"producer ids": {
		func(ctx context.Context, w *world) error { _, err := w.c.ProducerIDBlock(ctx, 10); return err },
		func(w *world, c *catalog.Catalog) {
			if n := must[int64](w.t)(c.ProducerIDBlock(w.t.Context(), 10)); n != 10 {
				w.t.Errorf("next is %d", n)
			}
		},
	},
	"forget": {
		func(ctx context.Context, w *world) error {
			if err := w.c.DeleteTopic(ctx, "t", kafka.TopicID{}); err != nil {
				return err
			}
			gone, err := w.c.DeletedTopics(ctx)
			if err != nil {
				return err
			}
			return w.c.ForgetTopic(ctx, gone[0])
		},
		func(w *world, c *catalog.Catalog) {
			if gone := must[[]catalog.DeletedTopic](w.t)(c.DeletedTopics(w.t.Context())); len(gone) != 0 {
				w.t.Errorf("%+v", gone)
			}
		},
	},
}

func appendX(m map[string]string) (map[string]string, error) { m["n"] += "x"; return m, nil }

// TestFaults lets each commit of each write go wrong in each way, once and
// twice in a row: it succeeds all the same, and is applied exactly once.
func TestFaults(t *testing.T) {
	faults := map[string]memmeta.Fault{
		"busy":             {Busy: true},
		"failed":           {Fail: true},
		"applied":          {Fail: true, Apply: true},
		"lands at once":    {Fail: true, Later: time.Nanosecond},
		"lands soon":       {Fail: true, Later: 20 * time.Millisecond},
		"lands much later": {Fail: true, Later: time.Hour},
	}
	for name, step := range steps {
		for kind, fault := range faults {
			for _, times := range []int{1, 2} {
				for at, more := 0, true; more; at++ {
					t.Run(fmt.Sprintf("%s/%s/%d times from commit %d on", name, kind, times, at), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							w := newWorld(t)
							n := 0
							w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
								if op != "commit" {
									return memmeta.Fault{}
								}
								if n++; n-1 >= at && n-1 < at+times {
									return fault
								}
								return memmeta.Fault{}
							}
							ok(t, step.do(t.Context(), w))
							w.store.Hook = nil
							time.Sleep(2 * time.Hour) // late ones land
							step.see(w, catalog.New(w.store))
							more = n > at
						})
					})
				}
			}
		}
	}
}

// TestFaultyReads has an applied write stay unanswered and the reads that
// follow fail: it is still not reported as failed, and not applied twice.
func TestFaultyReads(t *testing.T) {
	for _, name := range []string{"cluster", "start session", "checkpoint", "log start", "producer ids", "create topic"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				commits, reads := 0, 0
				w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
					if op == "commit" {
						commits++
						return memmeta.Fault{Fail: commits == 1, Apply: true}
					}
					if commits > 0 {
						reads++
					}
					return memmeta.Fault{Fail: commits > 0 && reads <= 5}
				}
				if name == "create topic" {
					must[catalog.Topic](t)(w.c.CreateTopic(t.Context(), catalog.Topic{Name: "u"}))
					if _, seen := w.c.Topics().ByName("u"); !seen || commits != 2 {
						t.Errorf("seen %v after %d commits", seen, commits)
					}
					return
				}
				ok(t, steps[name].do(t.Context(), w))
				w.store.Hook = nil
				steps[name].see(w, catalog.New(w.store))
			})
		})
	}
}

// TestUnknown has a store that never answers: what may still be applied is
// ErrUnknown, what certainly is not, is not.
func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for fault, unknown := range map[memmeta.Fault]bool{{Fail: true}: true, {Busy: true}: false} {
			w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
				if op == "commit" {
					return fault
				}
				return memmeta.Fault{}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := w.c.SetTrim(ctx, w.mine, 1)
			cancel()
			if errors.Is(err, catalog.ErrUnknown) != unknown || errors.Is(err, meta.ErrBusy) == unknown {
				t.Errorf("%+v: %v", fault, err)
			}
		}
	})
}
