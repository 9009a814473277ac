package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	maxWaiting      = 64       // requests between reader and answerer
	maxWaitingBytes = 64 << 20 // of them
	readBuffer      = 16 << 10
	writeTimeout    = 60 * time.Second
)

// request is one request on its way through a handler.
type request struct {
	wire.RequestHeader
	conn *conn
	msg  kmsg.Request
}

// clientID returns the client's name for itself.
func (r *request) clientID() string {
	if r.ClientID == nil {
		return ""
	}
	return *r.ClientID
}

// reply is what goes back: encoded buffers, or nothing at all.
type reply struct {
	bufs    net.Buffers
	release func() // once the buffers are written
	close   bool   // the connection ends
}

// waiting is a request whose answer is still to be made. finish is run by the
// answerer; poll ends when the server drains, hard when the connection does.
type waiting struct {
	req    *request
	bytes  int64
	since  time.Time
	finish func(hard, poll context.Context) reply
}

type conn struct {
	s       *Server
	c       net.Conn
	host    string // of the peer
	queue   chan waiting
	bytes   atomic.Int64
	room    chan struct{} // of capacity 1: some bytes have left
	scratch []byte        // the answerer's, for responses
	bufs    net.Buffers   // likewise
}

func newConn(s *Server, c net.Conn) *conn {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		host = c.RemoteAddr().String()
	}
	return &conn{s: s, c: c, host: "/" + host, queue: make(chan waiting, maxWaiting), room: make(chan struct{}, 1)}
}

// serve runs the connection until it ends.
func (c *conn) serve(ctx context.Context) {
	hard, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.answer(hard)
		cancel()
		_ = c.c.Close() // also ends the reader, which the answerer may leave behind
	}()
	stop := context.AfterFunc(hard, func() { _ = c.c.Close() })
	defer stop()
	unwatch := c.watchDrain(hard)
	err := c.read(hard)
	unwatch()
	close(c.queue)
	if !c.s.isDraining() {
		cancel() // the peer has gone: nobody reads the answers
	}
	if err != nil && !quiet(err) {
		c.s.o.Logger.Warn("connection closed", "peer", c.host, "err", err)
	}
	<-done
}

// watchDrain makes the reader stop when the server drains.
func (c *conn) watchDrain(ctx context.Context) (stop func()) {
	end, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-c.s.draining:
			_ = c.c.SetReadDeadline(time.Unix(1, 0)) // a closed connection has stopped already
		case <-end:
		case <-ctx.Done():
		}
	}()
	return func() { close(end); <-gone }
}

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// quiet tells the ordinary ends of a connection from those worth a line.
func quiet(err error) bool {
	var ne net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, context.Canceled) || errors.As(err, &ne) && ne.Timeout() || strings.Contains(err.Error(), "connection reset by peer")
}

// read takes requests off the wire until it fails.
func (c *conn) read(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	in := bufio.NewReaderSize(c.c, readBuffer)
	for {
		if idle := c.s.o.Config().ConnectionsMaxIdle; idle > 0 && idle < 1<<62 && !c.s.isDraining() {
			if err := c.c.SetReadDeadline(time.Now().Add(idle)); err != nil {
				return err
			}
		}
		if c.s.isDraining() {
			return nil
		}
		frame, err := wire.ReadFrame(in, c.s.o.Config().SocketRequestMaxBytes)
		if err != nil {
			return err
		}
		w, err := c.begin(ctx, frame)
		if err != nil {
			return err
		}
		if err := c.enqueue(ctx, w); err != nil {
			return err
		}
	}
}

// begin decodes a request and runs what must happen in order of arrival.
func (c *conn) begin(ctx context.Context, frame []byte) (waiting, error) {
	h, body, err := wire.ParseRequestHeader(frame)
	if err != nil {
		return waiting{}, err
	}
	w := waiting{req: &request{RequestHeader: h, conn: c}, bytes: int64(len(frame)), since: time.Now()}
	c.s.metrics.in.Add(float64(len(frame)))
	api := c.s.apiOf(h.Key)
	if api == nil || h.Version < api.min || h.Version > api.max {
		if h.Key == keyAPIVersions {
			w.finish = c.finishWith(w.req, func(context.Context) kmsg.Response { return unsupportedAPIVersions() })
			return w, nil
		}
		return w, fmt.Errorf("no such request: key %d version %d", h.Key, h.Version)
	}
	w.req.msg = kmsg.RequestForKey(h.Key)
	w.req.msg.SetVersion(h.Version)
	if err := decode(w.req.msg, body); err != nil {
		return w, fmt.Errorf("decode %s version %d: %w", api.name, h.Version, err)
	}
	switch {
	case h.Key == keyProduce:
		w.finish = c.s.produce(ctx, w.req)
	case h.Key == keyFetch:
		w.finish = func(_, poll context.Context) reply { return c.s.fetch(poll, w.req) }
	default:
		w.finish = c.finishWith(w.req, func(poll context.Context) kmsg.Response { return api.handle(c.s, poll, w.req) })
	}
	return w, nil
}

// decode reads a request; byte fields and strings refer to the frame.
func decode(r kmsg.Request, body []byte) error {
	if u, ok := r.(interface{ UnsafeReadFrom([]byte) error }); ok {
		return u.UnsafeReadFrom(body)
	}
	return r.ReadFrom(body)
}

// finishWith encodes what a handler answers.
func (c *conn) finishWith(r *request, handle func(context.Context) kmsg.Response) func(hard, poll context.Context) reply {
	return func(_, poll context.Context) reply {
		resp := handle(poll)
		if resp == nil {
			return reply{close: true}
		}
		b := append(c.scratch[:0], 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(r.CorrelationID))
		if resp.IsFlexible() && r.Key != keyAPIVersions {
			b = append(b, 0)
		}
		b = resp.AppendTo(b)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		if cap(b) <= 1<<20 {
			c.scratch = b
		}
		return reply{bufs: append(c.bufs[:0], b)}
	}
}

// enqueue waits for room, and hands a request to the answerer.
func (c *conn) enqueue(ctx context.Context, w waiting) error {
	for c.bytes.Load() > 0 && c.bytes.Load()+w.bytes > maxWaitingBytes {
		select {
		case <-c.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.bytes.Add(w.bytes)
	select {
	case c.queue <- w:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer finishes requests in order and writes their answers.
func (c *conn) answer(hard context.Context) {
	poll, cancel := context.WithCancel(hard)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.s.draining:
			cancel()
		case <-stop:
		}
	}()
	for w := range c.queue {
		if !c.one(hard, poll, w) {
			return
		}
	}
}

// one answers one request; false ends the connection.
func (c *conn) one(hard, poll context.Context, w waiting) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.s.o.Logger.Error("handler panicked", "key", w.req.Key, "version", w.req.Version, "panic", p, "stack", string(debug.Stack()))
			ok = false
		}
	}()
	r := w.finish(hard, poll)
	if r.release != nil {
		defer r.release()
	}
	c.bytes.Add(-w.bytes)
	select {
	case c.room <- struct{}{}:
	default:
	}
	if len(r.bufs) > 0 {
		if err := c.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return false
		}
		c.bufs = r.bufs
		n, err := r.bufs.WriteTo(c.c)
		c.s.metrics.out.Add(float64(n))
		if err != nil {
			return false
		}
		clear(c.bufs)
	}
	c.s.metrics.observe(w.req.Key, time.Since(w.since))
	return !r.close
}
