package api

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	// maxElements bounds the elements of all arrays of one request.
	maxElements = 100_000
	// elementBytes is about what an element takes in memory beside the frame.
	elementBytes = 128
)

// request is one request on its way through a handler.
type request struct {
	wire.RequestHeader
	conn *conn
	msg  kmsg.Request // nil for Produce
}

// clientID returns the client's name for itself.
func (r *request) clientID() string {
	if r.ClientID == nil {
		return ""
	}
	return *r.ClientID
}

// begin decodes a request and does what must happen in order of arrival. An
// error ends the connection.
func (s *Server) begin(ctx context.Context, c *conn, frame []byte) (waiting, error) {
	h, body, err := wire.ParseRequestHeader(frame)
	if err != nil {
		return waiting{}, err
	}
	w := waiting{req: &request{RequestHeader: h, conn: c}, bytes: int64(len(frame)), since: time.Now()}
	s.metrics.in.Add(float64(len(frame)))
	api := s.byKey[h.Key]
	if api == nil || h.Version < api.min || h.Version > api.max {
		if h.Key == keyAPIVersions {
			w.finish = func(_, _ context.Context) reply { return c.encode(w.req, unsupportedAPIVersions()) }
			return w, nil
		}
		return w, fmt.Errorf("no such request: key %d version %d", h.Key, h.Version)
	}
	if h.Key == keyProduce {
		p, err := decodeProduce(h.Version, body)
		if err != nil {
			return w, fmt.Errorf("decode Produce version %d: %w", h.Version, err)
		}
		w.finish = s.produce(ctx, w.req, p)
		return w, nil
	}
	elements, err := s.decode(w.req, body)
	if err != nil {
		return w, fmt.Errorf("decode %s version %d: %w", api.name, h.Version, err)
	}
	w.bytes += int64(elements) * elementBytes
	switch {
	case h.Key == keyFetch:
		w.finish = func(work, poll context.Context) reply { return s.fetch(work, poll, w.req) }
	case api.waits:
		w.finish = func(_, poll context.Context) reply { return c.encode(w.req, api.handle(s, poll, w.req)) }
	default:
		w.finish = func(work, _ context.Context) reply { return c.encode(w.req, api.handle(s, work, w.req)) }
	}
	return w, nil
}

// decode reads a request's body, and tells how many elements it has. Byte
// fields refer to the frame, and of Fetch, which keeps nothing, strings too.
func (s *Server) decode(r *request, body []byte) (elements int, err error) {
	r.msg = kmsg.RequestForKey(r.Key)
	r.msg.SetVersion(r.Version)
	if elements, err = s.layouts[r.Key].Elements(body, r.Version, r.msg.IsFlexible(), maxElements); err != nil {
		return 0, err
	}
	if f, ok := r.msg.(*kmsg.FetchRequest); ok {
		return elements, f.UnsafeReadFrom(body)
	}
	return elements, r.msg.ReadFrom(body)
}

// encode frames a response; nil closes the connection.
func (c *conn) encode(r *request, resp kmsg.Response) reply {
	if resp == nil {
		return reply{close: true}
	}
	b := append(c.scratch[:0], 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(r.CorrelationID))
	if resp.IsFlexible() && r.Key != keyAPIVersions { // its header is always version 0
		b = append(b, 0)
	}
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return reply{bufs: append(c.bufs[:0], c.keep(b))}
}

// keep remembers a buffer for the next response, unless it is large.
func (c *conn) keep(b []byte) []byte {
	if c.scratch = nil; cap(b) <= keepScratch {
		c.scratch = b
	}
	return b
}

// frames encodes the answer to a Fetch.
func (c *conn) frames(resp *wire.FetchResponse) net.Buffers {
	bufs, scratch := resp.AppendTo(c.bufs[:0], c.scratch)
	c.keep(scratch)
	return bufs
}
