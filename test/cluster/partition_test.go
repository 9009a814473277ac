package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/test/internal/load"
	"github.com/varvelog/varve/test/internal/netns"
)

// TestPartition cuts a broker off from the stores, from the other brokers, from
// the clients, and from all, for longer than the session timeout. Cut off from
// the stores it acknowledges nothing, and others take over; else it goes on.
func TestPartition(t *testing.T) {
	const (
		timeout = 3 * time.Second // broker.session.timeout.ms
		cutFor  = 2 * timeout
	)
	net := netns.Run(t, brokers)
	if net == nil {
		return
	}
	s3, dynamodb := farAway(t, netns.Store)
	place := onAWS(s3.URL, dynamodb.URL, "broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500")
	w := start(t, func(id int) brokertest.Options {
		o := place(id)
		o.Under, o.Host = net.Under(id), netns.Host(id)
		return o
	})
	peers := func(id int) (all []string) {
		for i := range brokers {
			all = append(all, netns.Host(i+1))
		}
		return slices.DeleteFunc(all, func(a string) bool { return a == netns.Host(id) })
	}
	for range rounds(t, 1) {
		for _, c := range []struct {
			what  string
			id    int
			from  []string
			store bool // is cut off
		}{
			{"no stores", 1, []string{netns.Store}, true},
			{"no other brokers", 2, peers(2), false},
			{"no clients", 3, []string{netns.Clients}, false},
			{"nobody", 1, append(peers(1), netns.Store, netns.Clients), true},
		} {
			before := w.balanced()[c.id]
			had := w.group.leads(c.id)
			w.harm(c.what, cutFor+5*timeout, func() {
				for _, a := range c.from {
					net.Cut(netns.Host(c.id), a)
				}
				begin := time.Now()
				load.Wait(t, cutFor)
				if c.store {
					w.silent(c.what, begin.Add(timeout/6), begin.Add(timeout*3/4), had...) // others take over later
					eventually(t, c.what+": others have ended its session", func() bool { return w.status()[c.id].State != "live" })
				} else if now := w.status()[c.id]; now != before {
					w.t.Errorf("%s: the broker was %+v and is %+v", c.what, before, now)
				}
				healed := time.Now()
				for _, a := range c.from {
					net.Heal(netns.Host(c.id), a)
				}
				eventually(t, c.what+": the broker is back", func() bool {
					now := w.status()[c.id]
					return now.Slots > 0 && (now.Session != before.Session) == c.store
				})
				t.Logf("%s: back after %s", c.what, time.Since(healed).Round(100*time.Millisecond))
			})
		}
	}
	w.balanced() // who reads back asks each leader once
	w.finish()
}
