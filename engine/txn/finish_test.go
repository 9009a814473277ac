package txn

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// groups of which some never answer.
type groups struct{}

func (groups) EndTxn(_ context.Context, group string, _ int64, _ int32, _ bool) kafka.ErrorCode {
	if strings.HasPrefix(group, "stuck") {
		return kafka.CoordinatorNotAvailable
	}
	return kafka.None
}

func newCoordinator(t *testing.T) *Coordinator {
	t.Helper()
	cfg, err := config.ParseBroker(nil)
	if err != nil {
		t.Fatal(err)
	}
	cat := catalog.New(memmeta.New())
	slots := []catalog.Slot{{}}
	return New(Options{
		Items: Items{Catalog: cat, Slots: 1}, Groups: groups{}, Logger: slog.New(slog.DiscardHandler),
		Slot:  func(kafka.Slot) (catalog.Slot, bool) { return slots[0], true },
		Owned: func() []catalog.Slot { return slots },
		// Nobody leads: all is written here.
		Cluster: func() *member.Cluster { return member.NewCluster(cat.Members(), 1) },
		Config:  func() *config.Broker { return cfg },
	})
}

// TestStuckEndsMakeRoom: transactions that nobody can end keep no others from being ended.
func TestStuckEndsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoordinator(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		begin := func(id, group string) {
			t.Helper()
			p := producer{id: 7}
			for _, s := range []step{
				initialize{timeoutMs: 1000, expected: producer{none, none}, fresh: p.id}.step,
				add{producer: p, groups: []string{group}}.step,
				end{producer: p, commit: true, fresh: none}.step,
			} {
				if _, out := c.act(t.Context(), id, s); out.code != kafka.None {
					t.Fatalf("%s: %+v", id, out)
				}
			}
		}
		for i := range maxEnding + 50 {
			begin(fmt.Sprint("a-stuck-", i), "stuck")
		}
		time.Sleep(10 * time.Second)
		asked := time.Now()
		for i := range 20 {
			begin(fmt.Sprint("b-sound-", i), "sound")
		}
		for i := range 20 { // as a client that begins its next transaction
			id := fmt.Sprint("b-sound-", i)
			for {
				_, out := c.act(t.Context(), id, add{producer: producer{id: 7}, groups: []string{"sound"}}.step)
				if out.code == kafka.None {
					break
				}
				if out.code != kafka.ConcurrentTransactions || time.Since(asked) > time.Minute {
					t.Fatalf("%s: %v after %s", id, out.code, time.Since(asked))
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		c.mu.Lock()
		if len(c.ending) > maxEnding {
			t.Errorf("%d are being ended at a time", len(c.ending))
		}
		c.mu.Unlock()
		cancel()
		if err := <-done; err != ctx.Err() {
			t.Error(err)
		}
	})
}

// TestAddedGroupHasAnID: an id that no group can have is refused, and not entered.
func TestAddedGroupHasAnID(t *testing.T) {
	c := newCoordinator(t)
	for _, id := range []string{"", strings.Repeat("x", 2000), "\xff"} {
		req := kmsg.NewPtrAddOffsetsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.Group = "a", 7, id
		if code := kafka.ErrorCode(c.AddOffsetsToTxn(t.Context(), req).ErrorCode); code != kafka.InvalidGroupID {
			t.Errorf("%.10q: %v", id, code)
		}
	}
}

// TestMarkerOfManyGroups: what no coordinator sends is refused.
func TestMarkerOfManyGroups(t *testing.T) {
	c := newCoordinator(t)
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for _, n := range []int{maxGroups, maxGroups + 1} {
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.UnknownTags.Set(markerTag, []byte(`{"groups":["g"`+strings.Repeat(`,"g"`, n-1)+`]}`))
		req.Markers = append(req.Markers, m)
	}
	resp := c.WriteTxnMarkers(t.Context(), req)
	for i, want := range []string{`{"codes":[0,`, `{"codes":[42,`} {
		resp.Markers[i].UnknownTags.Each(func(_ uint32, b []byte) {
			if !strings.HasPrefix(string(b), want) {
				t.Errorf("%.20s, want %s", b, want)
			}
		})
	}
}
