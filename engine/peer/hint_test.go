package peer

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/wire"
)

// TestHints: a broker is told of one change at a time, and of the newest when it has answered; one that
// does not answer holds up no other.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := map[string]chan int64{"quick:1": make(chan int64, 10), "slow:1": make(chan int64, 10)}
		delays := map[string]time.Duration{"quick:1": 0, "slow:1": 300 * time.Millisecond}
		var dials atomic.Int32
		pool := NewPool("test", func(_ context.Context, addr string) (net.Conn, error) {
			dials.Add(1)
			here, there := net.Pipe()
			go answerHints(there, delays[addr], told[addr])
			return here, nil
		})
		defer pool.Close()
		var newest atomic.Int64
		h := Hints{Pool: pool, Change: newest.Load}
		for n := range int64(5) {
			newest.Store(n + 1)
			h.Tell(t.Context(), []string{"quick:1", "slow:1"})
			synctest.Wait()
		}
		h.Wait()
		if n := dials.Load(); n != 2 {
			t.Errorf("%d connections to two brokers: answers are not understood", n)
		}
		for addr, want := range map[string][]int64{"quick:1": {1, 2, 3, 4, 5}, "slow:1": {1, 5}} {
			close(told[addr])
			var got []int64
			for n := range told[addr] {
				got = append(got, n)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s is told of %v, want %v", addr, got, want)
			}
		}
	})
}

// answerHints answers ApiVersions, each time so much later.
func answerHints(c net.Conn, delay time.Duration, told chan<- int64) {
	for {
		frame, err := wire.ReadFrame(c, 1<<20, nil)
		if err != nil {
			return
		}
		head, body, err := wire.ParseRequestHeader(frame)
		if err != nil {
			return
		}
		req := kmsg.NewPtrApiVersionsRequest()
		req.SetVersion(head.Version)
		if err := req.ReadFrom(body); err != nil {
			return
		}
		n, _ := Hinted(req)
		told <- n
		time.Sleep(delay)
		answer := req.ResponseKind().AppendTo(binary.BigEndian.AppendUint32(make([]byte, 4), uint32(head.CorrelationID)))
		binary.BigEndian.PutUint32(answer, uint32(len(answer)-4))
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}
