package group_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// TestLargestMetadata: as much metadata as is let through fits the catalogue,
// in all partitions that share an item, and leaves the group in memory.
func TestLargestMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, err := catalog.New(w.store).CreateTopic(t.Context(), catalog.Topic{Name: "wide", Partitions: 64, ReplicationFactor: 1})
		w.check(err)
		c, stop := w.start("offset.metadata.max.bytes", "6000")
		defer stop()
		for _, x := range []struct {
			name, metadata string
			code           kafka.ErrorCode
		}{
			{"letters", strings.Repeat("x", 5998), kafka.None},
			{"more letters", strings.Repeat("x", 5999), kafka.OffsetMetadataTooLarge},
			{"control characters", strings.Repeat("\x01", 999), kafka.None},
			{"more control characters", strings.Repeat("\x01", 1001), kafka.OffsetMetadataTooLarge},
			{"quotes", strings.Repeat(`"`, 2999), kafka.None},
			{"more quotes", strings.Repeat(`"`, 3000), kafka.OffsetMetadataTooLarge},
		} {
			r := commitReq("s", "", -1, "wide", 5)
			p := r.Topics[0].Partitions[0]
			p.Metadata = &x.metadata
			r.Topics[0].Partitions = nil
			for i := range int32(64) {
				p.Partition = i
				r.Topics[0].Partitions = append(r.Topics[0].Partitions, p)
			}
			for _, p := range c.OffsetCommit(t.Context(), r).Topics[0].Partitions {
				want(t, fmt.Sprint(x.name, p.Partition), kafka.ErrorCode(p.ErrorCode), x.code)
			}
		}
	})
}

// TestOfferedMetadataIsBounded: members whose protocols are too large together
// do not all get in, and those that are in go on.
func TestOfferedMetadataIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start("group.initial.rebalance.delay.ms", "3000")
		defer stop()
		large := make([]byte, 1<<20-10)
		var mu sync.Mutex
		var wg sync.WaitGroup
		codes := make(map[int16]int)
		for range 40 {
			wg.Go(func() {
				r := joinReq("", 3)
				r.Protocols[0].Metadata = large
				resp := c.Join(t.Context(), r, "", "")
				mu.Lock()
				defer mu.Unlock()
				codes[resp.ErrorCode]++
			})
		}
		wg.Wait()
		want(t, "joined", codes[0], 32)
		want(t, "refused", codes[int16(kafka.GroupMaxSizeReached)], 8)
		r := joinReq("", 3)
		r.Protocols[0].Metadata = make([]byte, 1<<20)
		want(t, "one member's", c.Join(t.Context(), r, "", "").ErrorCode, int16(kafka.UnknownServerError))
	})
}

// TestManyGroupsLeaveMemory: beyond a number of groups, those with nothing
// under way leave memory at once, also if a member was promised an id in them.
func TestManyGroupsLeaveMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start()
		defer stop()
		j := stable(t, c)
		var wg sync.WaitGroup
		for g := range 100 {
			wg.Go(func() {
				for i := range 110 {
					r := joinReq("", 4)
					r.Group = fmt.Sprint("g", g, "-", i)
					if x := c.Join(t.Context(), r, "", ""); x.ErrorCode != int16(kafka.MemberIDRequired) {
						t.Errorf("join: error %d", x.ErrorCode)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if n := c.Loaded(); n < 9_000 || n > 10_001 {
			t.Errorf("%d groups in memory", n)
		}
		want(t, "heartbeat of a member", heartbeat(t, c, "g", j.MemberID, 1), kafka.None)
		time.Sleep(2 * time.Minute)
		want(t, "in memory when idle", c.Loaded(), 0)
	})
}

// TestListTrimsFilters: states are compared as Kafka does.
func TestListTrimsFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start()
		defer stop()
		stable(t, c)
		want(t, "list", list(t, c, []string{" STABLE "}, nil), "0: g consumer Stable classic; ")
		want(t, "list", list(t, c, []string{"bogus"}, nil), "0: ")
		r := kmsg.NewPtrListGroupsRequest()
		want(t, "list of version 0", len(c.List(t.Context(), r).Groups), 1)
	})
}

// TestJoinIsText: what other members and observers are told of a member is UTF-8.
func TestJoinIsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := newWorld(t).start()
		defer stop()
		for name, spoil := range map[string]func(*kmsg.JoinGroupRequest){
			"protocol":      func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "\xff" },
			"protocol type": func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "\xff" },
			"instance":      func(r *kmsg.JoinGroupRequest) { r.InstanceID = kmsg.StringPtr("\xff") },
			"member":        func(r *kmsg.JoinGroupRequest) { r.MemberID = "\xff" },
		} {
			r := joinReq("", 5)
			spoil(r)
			want(t, name, c.Join(t.Context(), r, "", "").ErrorCode, int16(kafka.InvalidRequest))
		}
	})
}
