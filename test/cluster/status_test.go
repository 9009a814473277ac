package cluster

import "encoding/json"

// row is what `varve cluster status` says of a broker.
type row struct {
	ID            int
	Session       int64
	State         string
	Slots, Target int
}

// status returns the brokers that there are, by id.
func (w *world) status() map[int]row {
	w.t.Helper()
	var all struct{ Brokers []row }
	if out := w.brokers[0].Varve(w.t, "cluster", "status", "--json"); json.Unmarshal([]byte(out), &all) != nil {
		w.t.Fatalf("cluster status: %s", out)
	}
	byID := make(map[int]row)
	for _, r := range all.Brokers {
		byID[r.ID] = r
	}
	return byID
}

// balanced waits until each broker has the slots that it should have.
func (w *world) balanced() (byID map[int]row) {
	w.t.Helper()
	eventually(w.t, "the brokers are in balance", func() bool {
		byID = w.status()
		for _, r := range byID {
			if r.State != "live" || r.Slots != r.Target {
				return false
			}
		}
		return len(byID) == brokers
	})
	return byID
}
