package api

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// hold makes the store's puts wait until release.
func hold(store *memstore.Store) (release func()) {
	gate := make(chan struct{})
	store.SetFault(func(op memstore.Op, _ string) memstore.Fault {
		if op == memstore.OpPut {
			<-gate
		}
		return memstore.Fault{}
	})
	return sync.OnceFunc(func() { close(gate) })
}

// TestPipelining sends requests without waiting: all are appended while the
// first still waits for the store, and the answers leave in order.
func TestPipelining(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 2)
	release := hold(r.store)
	defer release()
	var reqs []kmsg.Request
	var corr []int32
	for i := range 10 {
		req := produceReq("t", id, int32(i%2), -1, batch(t, "v"))
		reqs, corr = append(reqs, req), append(corr, c.send(req, 9))
	}
	last := kmsg.NewPtrMetadataRequest()
	reqs, corr = append(reqs, last), append(corr, c.send(last, 12))
	for _, l := range r.s.o.Logs.All() {
		eventually(t, func() bool { return l.Offsets().Next == 5 })
		if hw := l.Offsets().HighWatermark; hw != 0 {
			t.Fatalf("high watermark %d before anything was durable", hw)
		}
	}
	release()
	for i, req := range reqs {
		resp, ok := c.receive(req, corr[i]).(*kmsg.ProduceResponse)
		if !ok {
			continue
		}
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(i/2) {
			t.Errorf("answer %d: error %d, offset %d", i, p.ErrorCode, p.BaseOffset)
		}
	}
}

// eventually waits for a condition that another goroutine makes true.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it did not come true in time")
		}
	}
}

// TestPipelineBound fills the queue: reading stops at maxWaiting requests.
func TestPipelineBound(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 1)
	release := hold(r.store)
	defer release()
	const n = 3 * maxWaiting
	for range n {
		c.send(produceReq("t", id, 0, -1, batch(t, "v")), 9)
	}
	l := r.s.o.Logs.All()[0]
	// One is being answered, maxWaiting wait, and the reader holds the next.
	eventually(t, func() bool { return l.Offsets().Next == maxWaiting+2 })
	release()
	for range n {
		if _, err := c.read(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAcksZero(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 1)
	c.send(produceReq("t", id, 0, 0, batch(t, "quiet")), 9)
	if p := c.produce(produceReq("t", id, 0, -1, batch(t, "loud")), 9); p.BaseOffset != 1 {
		t.Fatalf("offset %d after one record with acks=0", p.BaseOffset)
	}
	c.send(produceReq("nowhere", id, 0, 0, batch(t, "lost")), 9)
	c.closed()
}

// TestBadInput sends what no client should: the connection is closed, with a
// line in the log, and the server goes on.
func TestBadInput(t *testing.T) {
	s, store := newServer(t, nil)
	var log syncBuffer
	s.o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s.byKey[60].handle = func(*Server, context.Context, *request) kmsg.Response { panic("boom") }
	r := serve(t, s, store)
	tests := []struct {
		name string
		send func(c *client)
		log  string
	}{
		{"http", func(c *client) { c.write([]byte("GET / HTTP/1.1\r\n\r\n")) }, "frame size"},
		{"negative size", func(c *client) { c.write([]byte{0xff, 0, 0, 0, 0, 0, 0, 0}) }, "frame size"},
		{"oversized", func(c *client) { c.write([]byte{0x7f, 0, 0, 0, 0, 0, 0, 0}) }, "frame size"},
		{"oversized for its key", func(c *client) { c.write([]byte{0, 0x60, 0, 0, 0, 3, 0, 12}) }, "frame size"},
		{"unknown key", func(c *client) { c.frame([]byte{3, 0xe7, 0, 0, 0, 0, 0, 1, 0, 1, 'x', 0, 0}) }, "key 999"},
		{"removed version", func(c *client) { c.frame([]byte{0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 'x', 0, 0}) }, "key 0 version 2"},
		{"truncated body", func(c *client) { c.frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 'x', 0, 0}) }, "decode Metadata"},
		{"huge array", func(c *client) {
			c.frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 'x', 0x7f, 0xff, 0xff, 0xff})
		}, "decode Metadata"},
		{"huge produce array", func(c *client) {
			c.frame([]byte{0, 0, 0, 3, 0, 0, 0, 1, 0, 1, 'x', 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff})
		}, "decode Produce"},
		{"client id too long", func(c *client) { c.frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff}) }, "request header"},
		{"handler panics", func(c *client) { c.send(kmsg.NewPtrDescribeClusterRequest(), 0) }, "boom"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log.reset()
			c := r.dial()
			tt.send(c)
			c.closed()
			eventually(t, func() bool { return strings.Contains(log.String(), tt.log) })
		})
	}
	c := r.dial()
	if m := ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12); len(m.Brokers) != 1 {
		t.Error("no brokers")
	}
}

// TestAnsweredBeforeBadInput: what came before the bad request is answered.
func TestAnsweredBeforeBadInput(t *testing.T) {
	c := newRig(t, nil).dial()
	req := kmsg.NewPtrMetadataRequest()
	corr := c.send(req, 12)
	c.frame([]byte{3, 0xe7, 0, 0, 0, 0, 0, 1, 0, 1, 'x', 0, 0})
	c.receive(req, corr)
	c.closed()
}

// TestDoneAfterPeerLeft: a request is carried out though its client has gone
// by then.
func TestDoneAfterPeerLeft(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 1)
	release := hold(r.store)
	c.send(produceReq("t", id, 0, -1, batch(t, "v")), 9) // holds up the next
	drop := kmsg.NewPtrDeleteTopicsRequest()
	drop.TopicNames, drop.TimeoutMillis = []string{"t"}, 10_000
	c.send(drop, 5)
	_ = c.c.Close()
	release()
	eventually(t, func() bool { return r.s.o.Catalog.Topics().Len() == 0 })
}

// TestPollEndsAfterPeerLeft: nobody waits for a client that has gone.
func TestPollEndsAfterPeerLeft(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	req := fetchReq("t", c.create("t", 1), 0, 0)
	req.MaxWaitMillis = 60_000
	c.send(req, 12)
	_ = c.c.Close()
	eventually(t, func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.conns) == 0
	})
}

// TestConnectionLimit refuses connections over max.connections.
func TestConnectionLimit(t *testing.T) {
	r := newRig(t, map[string]string{"max.connections": "2"})
	a, b := r.dial(), r.dial()
	for _, c := range []*client{a, b} {
		ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0)
	}
	r.dial().closed()
	_ = a.c.Close()
	eventually(t, func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.conns) == 1
	})
	ask[*kmsg.ApiVersionsResponse](r.dial(), kmsg.NewPtrApiVersionsRequest(), 0)
}

// TestDrain: at the end a long poll answers at once, and what waits for
// durability gets its time.
func TestDrain(t *testing.T) {
	r := newRig(t, nil)
	c, p := r.dial(), r.dial()
	id := c.create("t", 2)
	poll := fetchReq("t", id, 1, 0)
	poll.MaxWaitMillis = 60_000
	pollCorr := c.send(poll, 12)
	release := hold(r.store)
	prod := produceReq("t", id, 0, -1, batch(t, "v"))
	prodCorr := p.send(prod, 9)
	l, _ := r.s.o.Logs.Get(kafka.TopicPartition{Topic: id})
	eventually(t, func() bool { return l.Offsets().Next == 1 })
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	begin := time.Now()
	c.receive(poll, pollCorr)
	c.closed()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("the poll took %v to end", d)
	}
	release()
	if resp := p.receive(prod, prodCorr).(*kmsg.ProduceResponse); resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Errorf("produce: error %d", resp.Topics[0].Partitions[0].ErrorCode)
	}
	p.closed()
	<-stopped
}

// TestIdle closes a connection that is silent for connections.max.idle.ms.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer(t, nil)
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); newConn(s, theirs).serve(t.Context()) }()
		c := &client{t: t, c: ours}
		begin := time.Now()
		ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0)
		if err := ours.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if d := time.Since(begin); d != 10*time.Minute {
			t.Errorf("closed after %v", d)
		}
		<-done
	})
}

// TestIdleInARequest: a request that begins just before the end of connections.max.idle.ms has as long itself, and no longer.
func TestIdleInARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer(t, nil)
		for pause, closed := range map[time.Duration]bool{2 * time.Minute: false, 11 * time.Minute: true} {
			ours, theirs := net.Pipe()
			done := make(chan struct{})
			go func() { defer close(done); newConn(s, theirs).serve(t.Context()) }()
			frame := []byte{0, 0, 0, 11, 0, 18, 0, 0, 0, 0, 0, 7, 0, 1, 'x'} // ApiVersions, version 0
			time.Sleep(9 * time.Minute)
			if _, err := ours.Write(frame[:6]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pause)
			_, err := ours.Write(frame[6:])
			if err == nil {
				_, err = io.ReadFull(ours, make([]byte, 8))
			}
			if (err != nil) != closed {
				t.Errorf("a request that takes %v: %v", pause, err)
			}
			_ = ours.Close()
			<-done
		}
	})
}

// syncBuffer is a buffer for a log that is read meanwhile.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *syncBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

// TestDrainJoin: a JoinGroup that waits for other members does not hold up
// the end, and its client is told to go elsewhere.
func TestDrainJoin(t *testing.T) {
	r := newRig(t, nil)
	join := func() *kmsg.JoinGroupRequest {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Group, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = "g", "consumer", 60_000, 60_000
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = "range", []byte{0, 0}
		req.Protocols = append(req.Protocols, p)
		return req
	}
	a, b := r.dial(), r.dial()
	eventually(t, func() bool { // the coordinator may just be starting
		return ask[*kmsg.JoinGroupResponse](a, join(), 3).ErrorCode == 0
	})
	req := join()
	corr := b.send(req, 3) // waits for the first one to join again
	beat := kmsg.NewPtrDescribeGroupsRequest()
	beat.Groups = []string{"g"}
	eventually(t, func() bool {
		return len(ask[*kmsg.DescribeGroupsResponse](a, beat, 5).Groups[0].Members) == 2
	})
	begin := time.Now()
	r.stop()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("drained after %v", d)
	}
	if resp := b.receive(req, corr).(*kmsg.JoinGroupResponse); resp.ErrorCode == 0 {
		t.Errorf("joined at the end: %+v", resp)
	}
	b.closed()
}

// TestWaitingBytes: a request waits for room, but a large one alone passes.
func TestWaitingBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer func() { _, _ = ours.Close(), theirs.Close() }()
		c := newConn(nil, theirs)
		big := waiting{bytes: maxWaitingBytes + 1, finish: func(_, _ context.Context) reply { return reply{} }}
		if err := c.enqueue(t.Context(), big); err != nil {
			t.Fatal(err)
		}
		passed := false
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := c.enqueue(t.Context(), waiting{bytes: 1}); err != nil {
				t.Error(err)
			}
			passed = true
		}()
		synctest.Wait()
		if passed {
			t.Error("more than 64 MiB wait")
		}
		if _, err := c.finish(t.Context(), t.Context(), <-c.queue); err != nil {
			t.Error(err)
		}
		<-done
	})
}

// TestNoConnectionAfterDrain: one that is accepted too late is refused.
func TestNoConnectionAfterDrain(t *testing.T) {
	s, _ := newServer(t, nil)
	ours, theirs := net.Pipe()
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	if c := newConn(s, theirs); !s.register(c) {
		t.Error("refused")
	} else if s.unregister(c); len(s.conns) != 0 {
		t.Error("still there")
	}
	s.drain()
	if s.register(newConn(s, theirs)) {
		t.Error("taken after the drain")
	}
}
