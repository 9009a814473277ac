package enginetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRackMoves moves brokers to other racks while consumers read in each: in
// one that has no broker any more they read from leaders, in one that has got its first
// from that. No record is missing, and slots and replicas are spread as they should be.
func TestRackMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWorld(t, 1, 3) // in racks 1, 0, 1
		w.cancel = cancel
		w.cluster.faults.settle()
		defer w.end()
		w.startAll(ctx)
		w.createTopics(ctx)
		var reading sync.WaitGroup
		drained, stop := context.WithCancel(ctx)
		for n := range racks {
			r := w.reader(rackName(n))
			reading.Go(func() { w.readInRack(drained, r) })
		}
		cl := w.producer(ctx)
		defer cl.Close()
		n := 0
		write := func() {
			for end := n + 60; n < end; n++ {
				s := sent{producer: 0, n: n, partition: int32(n % partitions)}
				r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: keptTopic, Partition: s.partition, Value: []byte(valueOf(0, n))}).First()
				if err != nil {
					t.Fatal(err)
				}
				s.acked, s.offset = true, r.Offset
				w.sent(s)
			}
		}
		good := func(what string) {
			t.Helper()
			write()
			w.readAll(ctx)
			w.awaitReaders(ctx)
			w.checkRacks(ctx)
			for _, bad := range append(check(w.history, w.read, nil), w.bad...) {
				t.Errorf("%s: %s", what, bad)
			}
		}
		good("at first")
		for _, move := range []struct {
			id, rack int
			alone    bool
		}{{3, 2, true}, {1, 0, false}, {2, 1, true}} { // rack 1 has none after the second
			p := w.life(int32(move.id))
			w.cluster.moveRack(p.id, rackName(move.rack))
			if err := p.stop(); err != nil {
				t.Fatal(err)
			}
			write() // meanwhile
			p = w.restart(ctx, p.id)
			good(fmt.Sprintf("broker %d in rack %d", move.id, move.rack))
			for limit := time.Now().Add(time.Minute); move.alone && counted(p.metrics, "varve_follower_bytes_out_total") == 0; write() {
				if time.Now().After(limit) {
					t.Errorf("nobody reads from broker %d in rack %d", move.id, move.rack)
					break
				}
			}
		}
		stop()
		reading.Wait()
	})
}
