package api

import (
	"context"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// benchServer returns a server and one of its connections, with a topic "t".
func benchServer(b *testing.B) (*Server, *conn) {
	s, _ := newServer(b, nil)
	ours, theirs := net.Pipe()
	b.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	c := newConn(s, theirs)
	req := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 6, 1
	req.Topics = append(req.Topics, topic)
	dispatch(b, s, c, frameOf(req, 7))
	return s, c
}

func frameOf(req kmsg.Request, version int16) []byte {
	req.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1)[4:]
}

func dispatch(b *testing.B, s *Server, c *conn, frame []byte) {
	w, err := s.begin(context.Background(), c, frame)
	if err != nil {
		b.Fatal(err)
	}
	r := w.finish(context.Background(), context.Background())
	if r.release != nil {
		r.release()
	}
	c.bufs = r.bufs[:0]
}

// BenchmarkProduce appends batches of 16 KiB, without the wire and without
// waiting for the store; a copy of the frame is part of it.
func BenchmarkProduce(b *testing.B) {
	s, c := benchServer(b)
	frame := frameOf(produceReq("t", kafka.TopicID{}, 0, 1, batch(b, string(make([]byte, 16<<10)))), 12)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		dispatch(b, s, c, append([]byte(nil), frame...))
	}
}

// BenchmarkFetch reads six partitions that are in RAM.
func BenchmarkFetch(b *testing.B) {
	s, c := benchServer(b)
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.MinBytes, req.SessionEpoch = 1<<20, 1, -1
	for p := range int32(6) {
		dispatch(b, s, c, frameOf(produceReq("t", kafka.TopicID{}, p, -1, batch(b, string(make([]byte, 16<<10)))), 12))
		fetchMore(req, "t", kafka.TopicID{}, p, 0)
	}
	frame := frameOf(req, 12)
	b.ReportAllocs()
	for b.Loop() {
		dispatch(b, s, c, frame)
	}
}
