package api

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// FuzzDispatch hands frames to the whole server: it never panics, and never
// allocates out of proportion to the frame.
func FuzzDispatch(f *testing.F) {
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz"))
	for _, a := range table() {
		for v := a.min; v <= a.max; v++ {
			req := kmsg.RequestForKey(a.key)
			req.SetVersion(v)
			f.Add(format.AppendRequest(nil, req, 1)[4:])
		}
	}
	for v := int16(3); v <= 13; v++ {
		req := produceReq("t", kafka.TopicID{}, 0, -1, batch(f, "v"))
		req.SetVersion(v)
		f.Add(format.AppendRequest(nil, req, 1)[4:])
	}
	for v := int16(4); v <= 18; v++ {
		req := fetchReq("t", kafka.TopicID{}, 0, 0)
		req.SetVersion(v)
		f.Add(format.AppendRequest(nil, req, 1)[4:])
	}
	s, _ := newServer(f, map[string]string{"auto.create.topics.enable": "false"})
	ours, theirs := net.Pipe()
	f.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	c := newConn(s, theirs)
	work, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	poll, stop := context.WithCancel(work)
	stop()
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 8 || len(frame) > 1<<16 {
			t.Skip() // the framing is wire's
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w, err := s.begin(work, c, frame)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20+200*uint64(len(frame)) {
			t.Errorf("%d bytes allocated for a frame of %d", n, len(frame))
		}
		if err != nil || w.req.Key == 19 || w.req.Key == 37 {
			return // a hundred thousand partitions are nobody's mistake but slow
		}
		r, err := c.finish(work, poll, w)
		var p *panicked
		if errors.As(err, &p) {
			t.Fatal(p.value, p.stack)
		}
		if r.release != nil {
			r.release()
		}
	})
}
