package faults

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/record"
)

// patience is how long the broker may take for an answer.
const patience = 30 * time.Second

// peer is a connection on which one can say anything.
type peer struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{t, c}
}

// frame sends bytes behind their length.
func (p *peer) frame(body []byte) {
	p.send(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
}

// send sends bytes. That the broker has closed the connection meanwhile is
// seen by who reads.
func (p *peer) send(b []byte) { _, _ = p.Write(b) }

// closed waits until the broker closes the connection.
func (p *peer) closed() {
	p.t.Helper()
	n, err := io.Copy(io.Discard, p)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		p.t.Error("the connection was not closed")
	}
	if n > 0 {
		p.t.Errorf("%d bytes were answered", n)
	}
}

// answered reads an answer.
func (p *peer) answered() {
	p.t.Helper()
	var size [4]byte
	_, err := io.ReadFull(p, size[:])
	if err == nil {
		_, err = io.CopyN(io.Discard, p, int64(binary.BigEndian.Uint32(size[:])))
	}
	if err != nil {
		p.t.Errorf("no answer: %v", err)
	}
}

// ask sends a request in a version and reads the answer.
func ask[R kmsg.Response](p *peer, req kmsg.Request, version int16) R {
	p.t.Helper()
	req.SetVersion(version)
	p.send(kmsg.NewRequestFormatter(kmsg.FormatterClientID("faults")).AppendRequest(nil, req, 1))
	resp := req.ResponseKind()
	resp.SetVersion(version)
	var size [4]byte
	if _, err := io.ReadFull(p, size[:]); err != nil {
		p.t.Fatalf("answer to %T: %v", req, err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(p, b); err != nil {
		p.t.Fatalf("answer to %T: %v", req, err)
	}
	head := 4
	if resp.IsFlexible() {
		head = 5
	}
	if err := resp.ReadFrom(b[head:]); err != nil {
		p.t.Fatalf("answer to %T: %v", req, err)
	}
	return resp.(R)
}

// create makes a topic.
func (p *peer) create(topic string, partitions int32) {
	p.t.Helper()
	if err := kerr.ErrorForCode(p.tryCreate(topic, partitions)); err != nil {
		p.t.Fatalf("create topic %s: %v", topic, err)
	}
}

func (p *peer) tryCreate(topic string, partitions int32) int16 {
	p.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, 1
	req.Topics = append(req.Topics, rt)
	return ask[*kmsg.CreateTopicsResponse](p, req, 5).Topics[0].ErrorCode
}

// produce sends record bytes with acks=all.
func (p *peer) produce(topic string, partition int32, records []byte) kmsg.ProduceResponseTopicPartition {
	p.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 2000
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, records
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return ask[*kmsg.ProduceResponse](p, req, 9).Topics[0].Partitions[0]
}

// batch returns one batch of a record each for the values.
func batch(t testing.TB, values ...[]byte) []byte {
	t.Helper()
	b := record.NewBuilder(record.None)
	for _, v := range values {
		b.Append(time.Now().UnixMilli(), nil, v)
	}
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
