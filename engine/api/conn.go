package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/varvelog/varve/internal/kafka/wire"
	"github.com/varvelog/varve/tiering/objcache"
)

const (
	maxWaiting      = 64       // requests between reader and answerer
	maxWaitingBytes = 64 << 20 // of them
	maxArriving     = 64 << 20 // of large requests of all connections, taken before they have arrived
	readBuffer      = 16 << 10
	keepScratch     = 1 << 20 // a larger response's buffer is not kept

	// A response is given this long, and the time that a slow peer needs for its bytes.
	writeTimeout = 60 * time.Second
	slowestPeer  = 16 << 10 // bytes a second
)

// conn is one connection.
//
//	 peer ─▶ read ─▶ begin (Produce appends) ─▶ queue ─▶ finish ─▶ write ─▶ peer
//		└──────── reader ────────────┘         └───── answerer ─────┘
type conn struct {
	s     *Server
	c     net.Conn
	host  string // of the peer
	queue chan waiting

	bytes     atomic.Int64  // of requests in the queue or being answered
	room      chan struct{} // of capacity 1: some bytes have left
	draining  atomic.Bool
	stopPolls atomic.Pointer[context.CancelFunc]

	ahead   *ahead                 // the answerer's, for the next Fetch; nil: nothing
	scratch []byte                 // the answerer's, for responses
	bufs    net.Buffers            // likewise
	sent    map[fetchKey]time.Time // likewise: when its consumer was sent to another broker
}

// waiting is a request whose answer is still to be made.
type waiting struct {
	req   *request
	bytes int64
	since time.Time
	// finish is run by the answerer. poll ends what waits for something to
	// happen, when the server drains or the peer has gone; work ends at the
	// very end only.
	finish func(work, poll context.Context) reply
}

// reply is what goes back: encoded buffers, or nothing at all.
type reply struct {
	bufs    net.Buffers
	release func() // once the buffers are written; nil: nothing to do
	close   bool   // the connection ends
}

func newConn(s *Server, c net.Conn) *conn {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		host = c.RemoteAddr().String()
	}
	return &conn{s: s, c: c, host: "/" + host, queue: make(chan waiting, maxWaiting), room: make(chan struct{}, 1)}
}

// drain makes the reader stop and long polls answer.
func (c *conn) drain() {
	c.draining.Store(true)
	_ = c.c.SetReadDeadline(time.Unix(1, 0)) // a closed connection has stopped already
	c.endPolls()
}

func (c *conn) endPolls() {
	if stop := c.stopPolls.Load(); stop != nil {
		(*stop)()
	}
}

// serve runs the connection until it ends.
func (c *conn) serve(ctx context.Context) {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	poll, stopPolls := context.WithCancel(work)
	defer stopPolls()
	c.stopPolls.Store(&stopPolls)
	if c.draining.Load() { // before stopPolls was there to be called
		stopPolls()
	}
	stop := context.AfterFunc(work, func() { _ = c.c.Close() })
	defer stop()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		c.answer(work, poll)
		cancel() // closes the connection, which ends the reader
	}()
	err := c.read(work)
	close(c.queue)
	if err != nil {
		c.logEnd(err)
		stopPolls() // nobody reads the answers, but what was asked is done
	}
	<-answered
}

func (c *conn) logEnd(err error) {
	var p *panicked
	switch {
	case errors.As(err, &p):
		c.s.o.Logger.Error("handler panicked", "peer", c.host, "panic", p.value, "stack", p.stack)
	case !quiet(err):
		c.s.o.Logger.Warn("connection closed", "peer", c.host, "err", err)
	}
}

// quiet tells the ordinary ends of a connection from those worth a line.
func quiet(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// panicked is a panic as an error.
type panicked struct {
	value any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// read takes requests off the wire until it fails, or the server drains (nil).
func (c *conn) read(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p, string(debug.Stack())}
		}
	}()
	in := bufio.NewReaderSize(c.c, readBuffer)
	for {
		if err := c.awaitFrame(in); err != nil || c.draining.Load() {
			return err
		}
		frame, err := wire.ReadFrame(in, c.s.o.Config().SocketRequestMaxBytes, c.s.frames)
		if err != nil {
			return err
		}
		w, err := c.s.begin(ctx, c, frame)
		if err != nil {
			return err
		}
		if err := c.enqueue(ctx, w); err != nil {
			return err
		}
	}
}

// awaitFrame waits for the first byte of a request. A peer that is silent for
// connections.max.idle.ms is closed, unless it waits for answers.
func (c *conn) awaitFrame(in *bufio.Reader) error {
	for {
		idle := c.s.o.Config().ConnectionsMaxIdle
		if idle > 0 {
			if err := c.c.SetReadDeadline(time.Now().Add(idle)); err != nil {
				return err
			}
		}
		if c.draining.Load() {
			return nil
		}
		_, err := in.Peek(1)
		switch {
		case err == nil:
			if idle > 0 && !whole(in) { // the rest has its own time
				return c.c.SetReadDeadline(time.Now().Add(idle))
			}
			return nil
		case c.draining.Load():
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded) || c.bytes.Load() == 0:
			return err
		}
	}
}

// whole tells whether the request that comes next has been received.
func whole(in *bufio.Reader) bool {
	size, err := in.Peek(min(4, in.Buffered()))
	return err == nil && len(size) == 4 && int64(in.Buffered())-4 >= int64(binary.BigEndian.Uint32(size))
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

// answer finishes requests in order and writes their answers. When the peer
// has gone it still does what was asked.
func (c *conn) answer(work, poll context.Context) {
	gone := false
	defer func() {
		rest := objcache.NewArena()
		c.takeAhead(rest)
		rest.Release()
	}()
	for w := range c.queue {
		r, err := c.finish(work, poll, w)
		if err == nil && !gone && len(r.bufs) > 0 {
			if err := c.write(r.bufs); err != nil {
				gone = true
				c.endPolls()
				_ = c.c.Close() // ends the reader
			}
		}
		if r.release != nil {
			r.release()
		}
		c.s.metrics.observe(w.req.Key, time.Since(w.since))
		if err != nil || r.close {
			if err != nil {
				c.logEnd(fmt.Errorf("key %d version %d: %w", w.req.Key, w.req.Version, err))
			}
			return
		}
	}
}

// finish makes one answer, and makes room for another request.
func (c *conn) finish(work, poll context.Context, w waiting) (r reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p, string(debug.Stack())}
		}
	}()
	r = w.finish(work, poll)
	c.bytes.Add(-w.bytes)
	select {
	case c.room <- struct{}{}:
	default:
	}
	return r, nil
}

func (c *conn) write(bufs net.Buffers) error {
	var size int64
	for _, b := range bufs {
		size += int64(len(b))
	}
	allowed := writeTimeout + time.Duration(size/slowestPeer)*time.Second
	if err := c.c.SetWriteDeadline(time.Now().Add(allowed)); err != nil {
		return err
	}
	c.bufs = bufs
	n, err := bufs.WriteTo(c.c) // counts and clears its copy of the slice
	c.s.metrics.out.Add(float64(n))
	clear(c.bufs)
	return err
}
