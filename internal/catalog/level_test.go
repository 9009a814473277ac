package catalog_test

import (
	"strings"
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// old makes a cluster of level 1 with a session as a program made it that knew no levels.
func old(t *testing.T) (*memmeta.Store, *catalog.Catalog, catalog.Session) {
	t.Helper()
	store := memmeta.New()
	ok(t, store.Commit(t.Context(), "x", meta.Create(meta.Key{PK: "cluster", SK: "info"}, meta.Attrs{"v": int64(1), "id": "x", "slots": int64(4), "level": int64(1)})))
	c := catalog.New(store)
	s := must[catalog.Session](t)(c.StartSession(t.Context(), 3, "old:1", ""))
	key := meta.Key{PK: "session/0000000003", SK: "00000000000000000000"}
	item := must[meta.Item](t)(store.Get(t.Context(), key))
	attrs := meta.Attrs{}
	for k, v := range item.Attrs {
		if !strings.HasSuffix(k, "_level") {
			attrs[k] = v
		}
	}
	ok(t, store.Commit(t.Context(), "y", meta.Replace(item, attrs)))
	return store, catalog.New(store), s
}

// TestLevelIsRaisedWhenAllCan: a member whose program is too old is named;
// without it the level is raised, and all hear of it.
func TestLevelIsRaisedWhenAllCan(t *testing.T) {
	store, c, s := old(t)
	other := catalog.New(store)
	ok(t, other.Refresh(t.Context()))
	err := c.RaiseLevel(t.Context(), 2)
	wantErr(t, err, catalog.ErrTooOld)
	if !strings.Contains(err.Error(), "broker 3 (old:1) up to 1") {
		t.Errorf("it does not say who: %v", err)
	}
	if c.Level() != 1 {
		t.Errorf("level %d", c.Level())
	}
	fenced := must[catalog.Session](t)(c.FenceSession(t.Context(), s))
	wantErr(t, c.RaiseLevel(t.Context(), 2), catalog.ErrTooOld) // its process may begin another one
	must[catalog.Session](t)(c.RecordSeal(t.Context(), fenced, 0))
	must[catalog.Session](t)(c.StartSession(t.Context(), 4, "new:1", ""))
	ok(t, c.RaiseLevel(t.Context(), 2))
	ok(t, c.RaiseLevel(t.Context(), 2)) // it is
	ok(t, c.RaiseLevel(t.Context(), 1)) // it does not fall
	ok(t, other.Refresh(t.Context()))
	reloaded := catalog.New(store)
	ok(t, reloaded.Refresh(t.Context()))
	for name, c := range map[string]*catalog.Catalog{"raised": c, "followed": other, "reloaded": reloaded} {
		if c.Level() != 2 {
			t.Errorf("%s: level %d", name, c.Level())
		}
	}
	wantErr(t, c.RaiseLevel(t.Context(), catalog.Level+1), catalog.ErrLevel)
}

// TestNoSessionAboveTheProgram: a cluster that was raised while a program waited
// to begin a session is no longer its own.
func TestNoSessionAboveTheProgram(t *testing.T) {
	store, c, s := old(t)
	info := must[meta.Item](t)(store.Get(t.Context(), meta.Key{PK: "cluster", SK: "info"}))
	ok(t, store.Commit(t.Context(), "z", meta.Replace(info, meta.Attrs{"v": int64(1), "id": "x", "slots": int64(4), "level": int64(catalog.Level + 1)})))
	_, err := c.FollowSession(t.Context(), s)
	wantErr(t, err, catalog.ErrLevel)
}

// TestHalfARestoreIsNoCatalogue: from its beginning to its end nobody works on what is restored.
func TestHalfARestoreIsNoCatalogue(t *testing.T) {
	store := memmeta.New()
	c := catalog.New(store)
	info := must[catalog.Cluster](t)(c.Cluster(t.Context(), 4))
	wantErr(t, c.Restorer().Begin(t.Context(), false), catalog.ErrExists)
	ok(t, c.Restorer().Begin(t.Context(), true))
	ok(t, c.Restorer().Begin(t.Context(), false)) // once more, after a kill
	_, err := c.Cluster(t.Context(), 4)
	wantErr(t, err, catalog.ErrRestoring)
	_, err = c.StartSession(t.Context(), 1, "", "")
	wantErr(t, err, catalog.ErrRestoring)
	note := meta.Create(meta.Key{PK: "dead", SK: "00000000000000000001/x"}, meta.Attrs{"v": int64(1), "due": int64(1), "keys": `["seg/a"]`})
	ok(t, store.Commit(t.Context(), meta.NewCommitID(), note))
	if notes := must[[]catalog.DeadObjects](t)(c.AllDeadObjects(t.Context())); len(notes) != 1 {
		t.Errorf("%v", notes)
	}
	ok(t, c.Restorer().Finish(t.Context(), info))
	if notes := must[[]catalog.DeadObjects](t)(c.AllDeadObjects(t.Context())); len(notes) != 0 {
		t.Errorf("the log may have them again: %v", notes)
	}
	same(t, info, must[catalog.Cluster](t)(c.Cluster(t.Context(), 4)))
	wantErr(t, c.Restorer().Begin(t.Context(), false), catalog.ErrExists)
}
