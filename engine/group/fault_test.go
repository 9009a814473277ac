package group_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestOutage: while the catalogue cannot be written, what needs it is
// refused with a retriable error, and afterwards the group is as it was saved.
func TestOutage(t *testing.T) {
	for name, fault := range map[string]memmeta.Fault{
		"busy":                {Busy: true},
		"failed":              {Fail: true},
		"failed, but applied": {Fail: true, Apply: true},
		"lands later":         {Fail: true, Later: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c, stop := w.start()
				defer stop()
				j := stable(t, c)
				want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 5)), kafka.None)
				var down atomic.Bool
				w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
					if down.Load() && (op == "commit" || fault.Apply) {
						return fault
					}
					return memmeta.Fault{}
				}
				down.Store(true)
				want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 6)), kafka.CoordinatorNotAvailable)
				want(t, "join", c.Join(t.Context(), joinReq(j.MemberID, 3), "", "").ErrorCode, int16(kafka.CoordinatorNotAvailable))
				want(t, "another", commit(t, c, commitReq("s", "", -1, "t", 6)), kafka.CoordinatorNotAvailable)
				down.Store(false)
				for range 10 { // a load that began before may yet fail
					if heartbeat(t, c, "g", j.MemberID, 1) != kafka.CoordinatorNotAvailable {
						break
					}
					time.Sleep(time.Second)
				}
				want(t, "heartbeat", heartbeat(t, c, "g", j.MemberID, 1), kafka.None)
				first, _ := fetch(t, c, "g")
				if first != 5 && !(fault.Apply && first == 6) {
					t.Errorf("offset %d after the outage", first)
				}
				for range 20 { // writes that land late change nothing any more
					time.Sleep(5 * time.Second)
					if code := heartbeat(t, c, "g", j.MemberID, 1); code != kafka.None && code != kafka.NotCoordinator {
						t.Errorf("heartbeat: %d", code)
					}
					off, code := fetch(t, c, "g")
					if code == kafka.None {
						want(t, "offset", off, first)
					}
				}
				want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 7)), kafka.None)
				again, stop2 := w.start()
				defer stop2()
				off, _ := fetch(t, again, "g")
				want(t, "offset in the store", off, 7)
			})
		})
	}
}

// TestAcknowledgedCommitsStay: whatever becomes of writes, and while owners
// change, what was acknowledged last is what is fetched, or something that was
// sent after it.
func TestAcknowledgedCommitsStay(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { acknowledged(t, seed) })
		})
	}
}

// someFaults returns a hook by which calls are slow, and four of so many are
// refused, fail, apply unseen or land late, while on says so.
func someFaults(seed uint64, of int, on *atomic.Bool) func(string, []meta.Op) memmeta.Fault {
	rng := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	return func(op string, _ []meta.Op) memmeta.Fault {
		if !on.Load() {
			return memmeta.Fault{}
		}
		mu.Lock()
		defer mu.Unlock()
		f := memmeta.Fault{Before: time.Duration(rng.IntN(50)) * time.Millisecond}
		switch rng.IntN(of) {
		case 0:
			f.Busy = true
		case 1:
			f.Fail = true
		case 2:
			f.Fail, f.Apply = true, true
		case 3:
			f.Fail, f.Later = true, time.Duration(rng.IntN(3000))*time.Millisecond
		}
		if op == "commit" && rng.IntN(40) == 0 { // past the deadline
			f.Fail, f.After = true, 15*time.Second
		}
		return f
	}
}

func acknowledged(t *testing.T, seed uint64) {
	w := newWorld(t)
	var faulty atomic.Bool
	w.store.Hook = someFaults(seed, 6, &faulty)
	c, stop := w.start()
	var acked, sent int64 = -1, -1
	for range 60 {
		faulty.Store(true)
		sent++
		if commit(t, c, commitReq("g", "", -1, "t", sent)) == kafka.None {
			acked = sent
		}
		faulty.Store(false)
		if sent%20 == 19 {
			w.takeOver()
			defer stop()
			c, stop = w.start()
		}
		off, code := fetch(t, c, "g")
		if code == kafka.None && (off < acked || off > sent) {
			t.Fatalf("fetched %d, acknowledged %d, sent %d", off, acked, sent)
		}
	}
	stop()
	if acked < 10 {
		t.Errorf("only %d were acknowledged", acked)
	}
}

func TestOffsetFetchVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		defer stop()
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 5)), kafka.None)
		for v := int16(1); v <= 10; v++ {
			want(t, fmt.Sprintf("version %d", v), fetchAll(t, c, w, v, false), "0 t/0=5,m,0 t/3=-1,,0 u/0=-1,,0 ")
			if v >= 2 {
				want(t, fmt.Sprintf("all, version %d", v), fetchAll(t, c, w, v, true), "0 t/0=5,m,0 ")
			}
		}
	})
}

// fetchAll asks for t-0, t-3 and u-0, which is not there, or for all.
func fetchAll(t *testing.T, c *group.Coordinator, w *world, v int16, all bool) string {
	r := kmsg.NewPtrOffsetFetchRequest()
	r.Version, r.Group = v, "s"
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = "s"
	if !all {
		r.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0, 3}}, {Topic: "u", Partitions: []int32{0}}}
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", TopicID: w.topic.ID, Partitions: []int32{0, 3}}, {Topic: "u", TopicID: [16]byte{9}, Partitions: []int32{0}}}
	}
	if v < 8 {
		r.Groups = nil
	} else {
		r.Group, r.Topics, r.Groups = "", nil, []kmsg.OffsetFetchRequestGroup{g}
	}
	resp := c.OffsetFetch(t.Context(), r)
	want(t, "version", resp.Version, v)
	s := fmt.Sprintf("%d ", resp.ErrorCode)
	for _, x := range resp.Topics {
		for _, p := range x.Partitions {
			s += fmt.Sprintf("%s/%d=%d,%s,%d ", x.Topic, p.Partition, p.Offset, *p.Metadata, p.ErrorCode)
		}
	}
	for _, g := range resp.Groups {
		for _, x := range g.Topics {
			for _, p := range x.Partitions {
				s += fmt.Sprintf("%s/%d=%d,%s,%d ", x.Topic, p.Partition, p.Offset, *p.Metadata, p.ErrorCode)
			}
		}
	}
	if v >= 10 { // there an unknown id has a code
		s = strings.Replace(s, "u/0=-1,,100", "u/0=-1,,0", 1)
	}
	return s
}

func TestOffsetCommitChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start("offset.metadata.max.bytes", "3")
		defer stop()
		r := commitReq("s", "", -1, "t", 1)
		r.Topics[0].Partitions = append(r.Topics[0].Partitions, r.Topics[0].Partitions[0], r.Topics[0].Partitions[0])
		r.Topics[0].Partitions[1].Partition, r.Topics[0].Partitions[1].Metadata = 1, kmsg.StringPtr("four")
		r.Topics[0].Partitions[2].Partition = 4
		codes := func(r *kmsg.OffsetCommitRequest) (s string) {
			for _, p := range c.OffsetCommit(t.Context(), r).Topics[0].Partitions {
				s += fmt.Sprint(p.ErrorCode, " ")
			}
			return s
		}
		want(t, "version 8", codes(r), "0 12 3 ")
		r.Version, r.Topics[0].Topic, r.Topics[0].TopicID = 10, "", w.topic.ID
		want(t, "version 10", codes(r), "0 12 3 ")
		r.Generation = 3
		want(t, "no member", codes(r), "25 25 3 ")
		r.Group = "nope"
		want(t, "no group", codes(r), "69 69 3 ")
		r.Topics[0].TopicID = [16]byte{1}
		want(t, "no topic", codes(r), "100 100 100 ")
		r.Group, r.Topics[0].TopicID = strings.Repeat("x", 2000), w.topic.ID
		want(t, "group id", codes(r), "24 24 3 ")
	})
}

func TestOffsetDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start()
		defer stop()
		r := kmsg.NewPtrOffsetDeleteRequest()
		r.Group = "s"
		r.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 9}}}}
		want(t, "no group", c.OffsetDelete(t.Context(), r).ErrorCode, int16(kafka.GroupIDNotFound))
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 5)), kafka.None)
		p := c.OffsetDelete(t.Context(), r).Topics[0].Partitions
		want(t, "codes", fmt.Sprint(p[0].ErrorCode, p[1].ErrorCode), "0 3")
		off, _ := fetch(t, c, "s")
		want(t, "offset", off, -1)
	})
}

// TestOffsetFetchOfOldVersions: before version 2 errors are the partitions',
// and no topics are none, not all.
func TestOffsetFetchOfOldVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		defer stop()
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 5)), kafka.None)
		r := kmsg.NewPtrOffsetFetchRequest()
		for _, x := range []struct {
			version         int16
			topics, perPart int
			top             kafka.ErrorCode
		}{{1, 0, 24, kafka.None}, {2, 1, 0, kafka.InvalidGroupID}} {
			r.Version, r.Group, r.Topics = x.version, "s", nil
			want(t, fmt.Sprint("topics of version ", x.version), len(c.OffsetFetch(t.Context(), r).Topics), x.topics)
			r.Group = strings.Repeat("x", 2000)
			r.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
			resp := c.OffsetFetch(t.Context(), r)
			perPart := 0
			if len(resp.Topics) > 0 {
				perPart = int(resp.Topics[0].Partitions[0].ErrorCode)
			}
			want(t, fmt.Sprint("partition's error, version ", x.version), perPart, x.perPart)
			if x.version >= 2 {
				want(t, "error", kafka.ErrorCode(resp.ErrorCode), x.top)
			}
		}
	})
}

// TestUnsettledGroupsAreSettled: a write that may land yet is settled though
// nobody asks for the group any more, which then leaves memory.
func TestUnsettledGroupsAreSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, stop := w.start()
		defer stop()
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 5)), kafka.None)
		w.store.Hook = func(op string, _ []meta.Op) memmeta.Fault {
			return memmeta.Fault{Fail: op == "commit", Later: 2 * time.Minute}
		}
		want(t, "commit", commit(t, c, commitReq("s", "", -1, "t", 6)), kafka.CoordinatorNotAvailable)
		w.store.Hook = nil
		time.Sleep(90 * time.Second)
		want(t, "groups in memory", c.Loaded(), 0)
		time.Sleep(2 * time.Minute) // the write has landed, in vain
		off, _ := fetch(t, c, "s")
		want(t, "offset", off, 5)
	})
}
