package catalog_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// counted is a store that counts queries.
type counted struct {
	meta.Store
	queries int
}

func (c *counted) Query(ctx context.Context, pk string, r meta.Range) ([]meta.Item, bool, error) {
	c.queries++
	return c.Store.Query(ctx, pk, r)
}

// TestHint: who makes a change hears of it, once, and whom it tells sees it at once; what is known
// already is no reason to read.
func TestHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memmeta.New()
		looks := &counted{Store: store}
		c, follower := catalog.New(store), catalog.New(looks)
		ok(t, follower.Refresh(t.Context()))
		go func() { _ = follower.Run(t.Context(), func(err error) { t.Error(err) }) }()
		time.Sleep(10100 * time.Millisecond) // not together with a tick
		must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "a", Partitions: 1}))
		select {
		case <-c.Made():
		default:
			t.Fatal("nobody hears of a change that was made here")
		}
		synctest.Wait()
		if c.LastMade() != c.Applied() || follower.Applied() == c.Applied() {
			t.Errorf("made %d, applied %d, the follower %d", c.LastMade(), c.Applied(), follower.Applied())
		}
		follower.Hint(c.LastMade())
		synctest.Wait()
		if follower.Applied() != c.Applied() {
			t.Errorf("told of %d, at %d", c.Applied(), follower.Applied())
		}
		before := looks.queries
		follower.Hint(c.LastMade())
		synctest.Wait()
		if looks.queries != before {
			t.Error("read again for what is known")
		}
		for range 10 {
			follower.Hint(1 << 40)
			synctest.Wait()
		}
		if n := looks.queries - before; n != 1 {
			t.Errorf("%d reads for hints of what is not there", n)
		}
		time.Sleep(time.Second)
		must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "b", Partitions: 1}))
		follower.Hint(c.LastMade())
		synctest.Wait()
		if <-c.Made(); follower.Applied() != c.Applied() {
			t.Errorf("told of %d, at %d", c.Applied(), follower.Applied())
		}
		select {
		case <-c.Made():
			t.Error("a change is told twice")
		case <-follower.Made():
			t.Error("a change that was told is told as one that was made")
		default:
		}
	})
}
