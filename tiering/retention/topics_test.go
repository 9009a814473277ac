package retention

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// deleted deletes the rig's topic, leaving objects that were never committed
// too, and one of another topic.
func (r *rig) deleted() {
	r.t.Helper()
	ctx := r.t.Context()
	r.must(r.cat.SetLogStart(ctx, r.slot, r.tp, 5))
	r.must(r.store.Put(ctx, "seg/"+r.tp.Topic.Hex()+"/0000000000/uncommitted", objstore.Buffers{[]byte("b")}))
	r.must(r.store.Put(ctx, "seg/"+kafka.TopicID{2}.Hex()+"/0000000000/other", objstore.Buffers{[]byte("b")}))
	r.must(r.cat.DeleteTopic(ctx, "t", kafka.TopicID{}))
}

// cleaned tells whether nothing of the topic is left.
func (r *rig) cleaned() bool {
	r.t.Helper()
	topics, err := r.cat.DeletedTopics(r.t.Context())
	r.must(err)
	return len(topics) == 0 && r.start() == 0 && len(r.entries()) == 0 && len(r.store.Keys()) == 1
}

func TestCleanDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, removeBatch+3)
		r.deleted()
		r.running(turnPeriod + time.Second)
		if n := len(r.entries()); n > 0 {
			t.Errorf("%d entries are left", n)
		}
		r.wantObjects(removeBatch + 5)
		r.running(topicGrace - turnPeriod)
		r.wantObjects(removeBatch + 5) // readers may still be at them
		r.running(3 * turnPeriod)
		if !r.cleaned() {
			t.Errorf("left: %v, %v", r.entries(), r.store.Keys())
		}
	})
}

// Killed at any call, the next job finishes, and nothing is left at all.
func TestCleanDeletedKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			t.Run(fmt.Sprintf("%d/%v", at, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, removeBatch+3)
					r.deleted()
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
					k := &kill{at: at, after: after, cancel: cancel}
					k.arm(r)
					r.must(r.job("broker-1").Run(ctx))
					disarm(r)
					more = k.calls >= at
					time.Sleep(reserveTurns * interval)
					r.running(5 * time.Minute)
					if !r.cleaned() {
						t.Errorf("left: %v, %v", r.entries(), r.store.Keys())
					}
				})
			})
		}
	}
}

// Two schedules at once, and stores that fail now and then.
func TestCleanDeletedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, removeBatch+3)
		r.deleted()
		var calls atomic.Int64
		r.meta.Hook = func(string, []meta.Op) memmeta.Fault {
			n := calls.Add(1)
			return memmeta.Fault{Fail: n%13 == 0, Apply: n%2 == 0}
		}
		r.store.SetFault(func(memstore.Op, string) memstore.Fault {
			if calls.Add(1)%3 == 0 {
				return memstore.Fault{Kind: memstore.FailApplied}
			}
			return memstore.Fault{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		jobs := []*Job{r.job("broker-1"), r.job("broker-2")}
		for _, j := range jobs {
			j.o.Deleted = func(string) {}
		}
		done := make(chan error, 1)
		go func() { done <- jobs[1].Run(ctx) }()
		r.must(jobs[0].Run(ctx))
		r.must(<-done)
		disarm(r)
		if !r.cleaned() {
			t.Errorf("left: %v, %v", r.entries(), r.store.Keys())
		}
	})
}
