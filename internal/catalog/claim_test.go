package catalog_test

import (
	"sync"
	"testing"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// Who claims at the same time gets another id, and who begins a session of a claimed one begins its first.
func TestClaimBroker(t *testing.T) {
	store := memmeta.New()
	s, err := catalog.New(store).StartSession(t.Context(), 3, "", "")
	ok(t, err)
	var mu sync.Mutex
	seen := map[int32]bool{s.ID.Broker: true}
	var claiming sync.WaitGroup
	for range 10 {
		claiming.Go(func() {
			id, err := catalog.New(store).ClaimBroker(t.Context())
			mu.Lock()
			defer mu.Unlock()
			if err != nil || id < 4 || id > 13 || seen[id] {
				t.Errorf("claimed %d, %v", id, err)
			}
			seen[id] = true
		})
	}
	claiming.Wait()
	if s, err := catalog.New(store).StartSession(t.Context(), 4, "", ""); err != nil || s.ID.Epoch != 0 {
		t.Errorf("session %v, %v", s.ID, err)
	}
}
