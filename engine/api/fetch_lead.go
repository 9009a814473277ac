package api

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// The leader's half of KIP-392: a consumer in another rack is told of a broker
// in its own, which then asks here where the records lie.

const (
	// stayFor is how long a consumer that came back to the leader reads there: the broker that it was sent to does not serve it.
	stayFor = 30 * time.Second
	// maxSent bounds what a connection remembers of where its consumer was sent.
	maxSent = 10_000
)

// fromReplica tells whether a broker asks for a consumer of its own.
func fromReplica(req *kmsg.FetchRequest) bool {
	if req.Version >= 15 {
		return req.ReplicaState.ID >= 0
	}
	return req.ReplicaID >= 0
}

// redirect tells a consumer which broker in its rack to read a partition from.
// As in Kafka that is one of the partition's replicas, the answer has no
// records, and an offset that the log does not hold is the leader's to refuse.
func (f *fetching) redirect(t *catalog.Topic, i int) bool {
	if f.s.o.Follow == nil || f.replica || f.req.Version < 11 || f.req.Rack == "" || f.req.Rack == f.s.o.Self.Rack {
		return false
	}
	p, c := &f.parts[i], f.s.o.Cluster()
	to, ok := c.ReplicaIn(slotOf(c, t, p.key.partition), int(t.ReplicationFactor), f.req.Rack)
	o := f.logs[i].Offsets()
	if !ok || to == f.s.o.Self.ID || p.from < o.LogStart || p.from > o.HighWatermark || !f.conn.sends(p.key) {
		return false
	}
	f.s.metrics.redirected.Inc()
	f.rows[i] = row(p, partition.Result{HighWatermark: o.HighWatermark, LastStable: o.LastStable, LogStart: o.LogStart}, kafka.Isolation(f.req.IsolationLevel))
	f.rows[i].PreferredReadReplica = to
	f.logs[i] = nil
	return true
}

// sends tells whether this connection's consumer may be sent elsewhere for a
// partition, and remembers that it was. One that is back soon stays.
func (c *conn) sends(key fetchKey) bool {
	now := time.Now()
	if at, ok := c.sent[key]; ok && now.Sub(at) < stayFor {
		return false
	}
	if c.sent == nil || len(c.sent) >= maxSent {
		c.sent = make(map[fetchKey]time.Time)
	}
	key.name = strings.Clone(key.name) // it refers to the request's frame
	c.sent[key] = now
	return true
}

// locateOne is readOne for a broker that asks: the row has the place where it
// would have the records, also with kafka.OffsetOutOfRange.
func (f *fetching) locateOne(ctx context.Context, i, limit int, first bool) (got int64, ok bool) {
	p, l, iso := &f.parts[i], f.logs[i], kafka.Isolation(f.req.IsolationLevel)
	place, err := l.Locate(ctx, p.from, limit, iso)
	if limit <= 0 && !first {
		place.Sealed, place.Slices = false, nil // no room
	}
	code := codeOf(err)
	if code == kafka.OffsetOutOfRange {
		code = outOfRange(ctx, l, p.from)
	}
	if code != kafka.None {
		f.rows[i] = f.failed(p, code)
	} else {
		f.rows[i] = row(p, partition.Result{HighWatermark: place.HighWatermark, LastStable: place.LastStable, LogStart: place.LogStart}, iso)
	}
	b, err := json.Marshal(&place)
	if err != nil {
		panic(err) // it has nothing that can fail
	}
	f.rows[i].Records = [][]byte{b}
	return min(place.Bytes(), int64(max(limit, 1))), code == kafka.None
}
