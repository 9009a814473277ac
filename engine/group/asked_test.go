package group

import (
	"testing"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// TestReadAnewAmidALook: a group that is read anew while a transaction is looked at does not say that this has ended: the client
// asks again. One that has ended meanwhile is told so.
func TestReadAnewAmidALook(t *testing.T) {
	now := time.UnixMilli(0)
	begin := func(g *Group) *asked {
		t.Helper()
		a, ok := g.Step(now, TxnBegin{Token: 1, ProducerID: 7}).Replies[0].Body.(*asked)
		if !ok {
			t.Fatal("no body")
		}
		return a
	}
	commit := func(g *Group, a *asked, want kafka.ErrorCode) {
		t.Helper()
		offsets := map[kafka.TopicPartition]catalog.GroupOffset{{Partition: 1}: {Offset: 3}}
		out := g.Step(now, TxnCommit{Token: 2, Asked: a, ProducerID: 7, Number: 1, Generation: -1, Offsets: offsets})
		if code := out.Replies[0].Code; code != want || (code == kafka.None) != (len(out.Pending) == 1) {
			t.Errorf("%v, want %v; pending %v", code, want, out.Pending)
		}
	}
	g := NewGroup()
	a := begin(g)
	commit(NewGroup(), a, kafka.CoordinatorLoadInProgress)
	commit(g, a, kafka.None)
	a = begin(g)
	g.Step(now, TxnEnd{Token: 3, ProducerID: 7, Number: 1})
	commit(g, a, kafka.TransactionAbortable)
	commit(NewGroup(), a, kafka.TransactionAbortable)
}
