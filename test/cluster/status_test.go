package cluster

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// status asks what `varve cluster status` says of brokers on AWS.
type status struct{ place, env []string }

// row is a broker.
type row struct {
	ID            int
	Session       int64
	State         string
	Slots, Target int
}

func statusOf(place where) status {
	o := place(1)
	return status{o.Args[:4], o.Env} // bucket and table
}

// brokers returns the brokers that there are, by id.
func (s status) brokers(t *testing.T) map[int]row {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, brokertest.Binary(t), append([]string{"cluster", "status", "--json"}, s.place...)...)
	cmd.Env = append(os.Environ(), s.env...)
	out, err := cmd.Output()
	var all struct{ Brokers []row }
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		t.Fatalf("cluster status: %v\n%s", err, out)
	}
	byID := make(map[int]row)
	for _, r := range all.Brokers {
		byID[r.ID] = r
	}
	return byID
}

// balanced waits until each broker has the slots that it should have.
func (s status) balanced(w *world) (byID map[int]row) {
	w.t.Helper()
	w.until("the brokers are in balance", 30*time.Second, func() bool {
		byID = s.brokers(w.t)
		for _, r := range byID {
			if r.State != "live" || r.Slots != r.Target {
				return false
			}
		}
		return len(byID) == brokers
	})
	return byID
}
