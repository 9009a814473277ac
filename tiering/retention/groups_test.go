package retention

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// group makes a group with an offset of each of the rig's partition and the
// next ones, committed so long ago.
func (r *rig) group(id string, value catalog.SavedGroup, ages ...time.Duration) {
	r.t.Helper()
	ctx := r.t.Context()
	g, _, err := r.cat.LoadGroup(ctx, id)
	r.must(err)
	g.Value = value.Encode()
	g, err = r.cat.SaveGroup(ctx, r.slot, g)
	r.must(err)
	offsets := make(map[kafka.TopicPartition]catalog.GroupOffset)
	for p, age := range ages {
		tp := kafka.TopicPartition{Topic: r.tp.Topic, Partition: int32(p)}
		offsets[tp] = catalog.GroupOffset{Offset: 5, CommitMs: time.Now().Add(-age).UnixMilli()}
	}
	r.must(r.cat.CommitOffsets(ctx, g, offsets, nil))
}

// groups returns the groups with the number of their offsets.
func (r *rig) groups() (all []string) {
	r.t.Helper()
	ids, err := r.cat.Groups(r.t.Context(), r.slot.Slot)
	r.must(err)
	for _, id := range ids {
		g, offsets, err := r.cat.LoadGroup(r.t.Context(), id)
		r.must(err)
		if len(g.Value) == 0 {
			r.t.Errorf("group %s is listed and not there", id)
		}
		all = append(all, fmt.Sprint(id, " ", len(offsets)))
	}
	return all
}

func (r *rig) wantGroups(want ...string) {
	r.t.Helper()
	if d := cmp.Diff(want, r.groups()); d != "" {
		r.t.Errorf("groups (-want +got):\n%s", d)
	}
}

const (
	day  = 24 * time.Hour
	week = 7 * day // offsets.retention.minutes, by default
)

// someGroups makes groups of which some have expired.
func (r *rig) someGroups() {
	since := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }
	members := []catalog.SavedMember{{ID: "m"}}
	r.group("all-gone", catalog.SavedGroup{}, week+day, week+time.Minute)
	r.group("busy", catalog.SavedGroup{State: 3, ProtocolType: "consumer", Members: members}, week+day)
	r.group("in-part", catalog.SavedGroup{}, week+day, day)
	r.group("left-early", catalog.SavedGroup{ProtocolType: "consumer", EmptySinceMs: since(week + time.Hour)}, week+day)
	r.group("left-lately", catalog.SavedGroup{ProtocolType: "consumer", EmptySinceMs: since(day)}, week+day)
	r.group("nothing", catalog.SavedGroup{ProtocolType: "consumer", EmptySinceMs: since(day)})
	r.group("young", catalog.SavedGroup{}, day)
}

var groupsLeft = []string{"busy 1", "in-part 1", "left-lately 1", "young 1"}

func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.someGroups()
		stats, err := r.job("function").Turn(t.Context())
		r.must(err)
		if stats.Offsets != 4 {
			t.Errorf("%d offsets expired", stats.Offsets)
		}
		r.wantGroups(groupsLeft...)
		time.Sleep(week/groupScans - time.Minute)
		r.group("late", catalog.SavedGroup{}, week+day)
		r.turns(1)
		r.wantGroups("busy 1", "in-part 1", "late 1", "left-lately 1", "young 1")
		r.turns(1) // they are looked at again
		r.wantGroups(groupsLeft...)
		r.must(r.cat.DeleteTopic(t.Context(), "t", kafka.TopicID{}))
		time.Sleep(day)
		r.turns(1)
		r.wantGroups("busy 1")
	})
}

// Killed at any call, before or after its effect, the next job finishes, and what is young stays.
func TestGroupsKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			t.Run(fmt.Sprintf("%d/%v", at, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, 0)
					r.someGroups()
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					k := &kill{at: at, after: after, cancel: cancel}
					k.arm(r)
					r.must(r.job("broker-1").Run(ctx))
					disarm(r)
					more = k.calls >= at
					time.Sleep(reserveTurns*interval + week/groupScans)
					r.turns(1)
					r.wantGroups(groupsLeft...)
				})
			})
		}
	}
}

// A group that changes while it is claimed is left alone.
func TestGroupIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.group("g", catalog.SavedGroup{}, week+day)
		ctx := t.Context()
		lease, err := r.cat.AcquireLease(ctx, JobName, "function", time.Minute)
		r.must(err)
		tn := &turn{Job: r.job("function"), lease: lease, kept: time.Now()}
		e, err := tn.expiry(ctx, "g")
		r.must(err)
		r.group("g", catalog.SavedGroup{Generation: 1}, time.Minute) // a new owner, and an offset
		if _, err := r.cat.ClaimGroup(ctx, lease, e.state, e.value); err == nil {
			t.Error("a group that has changed was claimed")
		}
		r.must(tn.group(ctx, r.slot.Slot, "g"))
		r.wantGroups("g 1")
	})
}

// An offset that is committed after the job has read the group, and before it
// has claimed it, stays.
func TestCommitBeforeClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.group("g", catalog.SavedGroup{}, week+day, week+day)
		g, _, err := r.cat.LoadGroup(t.Context(), "g")
		r.must(err)
		r.meta.Hook = func(op string, ops []meta.Op) memmeta.Fault {
			if op == "commit" && ops[0].Key.PK == "group/g" { // the claim
				r.meta.Hook = nil
				young := catalog.GroupOffset{Offset: 9, CommitMs: time.Now().UnixMilli()}
				r.must(r.cat.CommitOffsets(t.Context(), g, map[kafka.TopicPartition]catalog.GroupOffset{r.tp: young}, nil))
			}
			return memmeta.Fault{}
		}
		r.turns(1)
		r.wantGroups("g 1")
	})
}
