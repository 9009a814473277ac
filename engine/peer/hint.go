package peer

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// hintTag is the tagged field of ApiVersions by which a broker tells another of a
	// change in the catalogue's feed: its number, int64, big endian.
	hintTag     = 10_000
	hintTimeout = time.Second // the feed is read as often
)

// Hinted returns the change that a request tells of.
func Hinted(req *kmsg.ApiVersionsRequest) (change int64, ok bool) {
	req.UnknownTags.Each(func(tag uint32, b []byte) {
		if tag == hintTag && len(b) == 8 {
			change, ok = int64(binary.BigEndian.Uint64(b)), true
		}
	})
	return change, ok
}

func hint(change int64) *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.SetVersion(3)
	req.ClientSoftwareName, req.ClientSoftwareVersion = "varve", "1"
	req.UnknownTags.Set(hintTag, binary.BigEndian.AppendUint64(nil, uint64(change)))
	return req
}

// Hints tells other brokers of changes, each broker of one at a time. What is lost they find by
// themselves. All methods are safe for concurrent use.
type Hints struct {
	Pool   *Pool
	Change func() int64 // the newest, which is told

	mu   sync.Mutex
	busy map[string]bool // who is being told; true: and is to be told again
	wg   sync.WaitGroup
}

// Tell tells the brokers at these addresses (host:port) of the newest change, and does not wait until it has.
func (h *Hints) Tell(ctx context.Context, addrs []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, addr := range addrs {
		if _, busy := h.busy[addr]; busy {
			h.busy[addr] = true
			continue
		}
		if h.busy == nil {
			h.busy = make(map[string]bool)
		}
		h.busy[addr] = false
		h.wg.Go(func() { h.tell(ctx, addr) })
	}
}

// Wait waits until nobody is being told any more.
func (h *Hints) Wait() { h.wg.Wait() }

func (h *Hints) tell(ctx context.Context, addr string) {
	for again := true; again; {
		call, cancel := context.WithTimeout(ctx, hintTimeout)
		_, _ = h.Pool.Ask(call, addr, hint(h.Change())) // who cannot be told reads the feed
		cancel()
		h.mu.Lock()
		if again = h.busy[addr]; again {
			h.busy[addr] = false
		} else {
			delete(h.busy, addr)
		}
		h.mu.Unlock()
	}
}
