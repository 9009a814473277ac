package catalog_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestFarBehind: a follower that cannot catch up in the time of one call does in that of several.
func TestFarBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memmeta.New()
		c, follower := catalog.New(store), catalog.New(store)
		must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: "first"}))
		ok(t, follower.Refresh(t.Context()))
		const n = 100
		for i := range n {
			must[catalog.Topic](t)(c.CreateTopic(t.Context(), catalog.Topic{Name: fmt.Sprint("t", i)}))
		}
		store.Hook = func(string, []meta.Op) memmeta.Fault { return memmeta.Fault{Before: 10 * time.Millisecond} }
		var err error
		for range 5 {
			before := follower.Topics().Len()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err = follower.Refresh(ctx)
			cancel()
			if err != nil && follower.Topics().Len() <= before {
				t.Fatalf("%d topics still: %v", before, err)
			}
		}
		if err != nil || follower.Topics().Len() != n+1 {
			t.Errorf("%d topics, %v", follower.Topics().Len(), err)
		}
	})
}
