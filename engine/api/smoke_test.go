package api

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestEveryVersion asks each key in each version for what its zero request
// says, over one connection: all are answered, and the answer can be read.
func TestEveryVersion(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	for _, a := range table() {
		for v := a.min; v <= a.max; v++ {
			req := kmsg.RequestForKey(a.key)
			switch req := req.(type) {
			case *kmsg.ProduceRequest:
				req.Acks = -1
			case *kmsg.FetchRequest:
				req.MaxWaitMillis = 0
			}
			c.receive(req, c.send(req, v))
		}
	}
}

// TestProduceFetchEveryVersion appends and reads back in all versions of both.
func TestProduceFetchEveryVersion(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("events", 1)
	var want []string
	for v := int16(3); v <= 13; v++ {
		value := string(rune('a' + v))
		p := c.produce(produceReq("events", id, 0, -1, batch(t, value, value)), v)
		if p.ErrorCode != 0 || p.BaseOffset != int64(len(want)) || p.LogAppendTime != -1 {
			t.Fatalf("produce version %d: %+v", v, p)
		}
		want = append(want, value, value)
	}
	for v := int16(4); v <= 18; v++ {
		resp := ask[*kmsg.FetchResponse](c, fetchReq("events", id, 0, 0), v)
		p := resp.Topics[0].Partitions[0]
		if got := values(t, p.RecordBatches); !slices.Equal(got, want) || p.HighWatermark != int64(len(want)) {
			t.Errorf("fetch version %d: %v, high watermark %d; want %v", v, got, p.HighWatermark, want)
		}
	}
}
