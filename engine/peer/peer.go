// Package peer asks other brokers, in the Kafka protocol, over connections that
// are kept for the next question.
package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	maxOpen     = 1024 // connections of a Pool
	maxIdle     = 32   // of them, to one broker, between two questions
	idleTime    = 30 * time.Second
	maxResponse = 64 << 20 // bytes
	dialTimeout = 2 * time.Second

	keyAPIVersions = 18
)

// ErrBusy means that as many questions are under way as may be.
var ErrBusy = errors.New("peer: too many connections")

// Pool holds connections to brokers. All methods are safe for concurrent use.
type Pool struct {
	clientID string
	dial     func(ctx context.Context, addr string) (net.Conn, error)

	mu   sync.Mutex
	open int
	idle map[string][]*conn // by address, the one used last at the end
}

// conn is a connection that one question uses at a time.
type conn struct {
	net.Conn
	in    *bufio.Reader
	asked int32     // correlation id of the newest question
	since time.Time // when it became idle
}

// NewPool returns an empty pool. Its questions name clientID as who asks.
func NewPool(clientID string, dial func(ctx context.Context, addr string) (net.Conn, error)) *Pool {
	return &Pool{clientID: clientID, dial: dial, idle: make(map[string][]*conn)}
}

// Ask asks the broker at addr (host:port) and returns its answer. The question
// must be one that may be asked twice, and have its version set; ctx must have a deadline. Who gives up
// by ctx closes the connection.
func (p *Pool) Ask(ctx context.Context, addr string, req kmsg.Request) (kmsg.Response, error) {
	for {
		c, fresh, err := p.take(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", addr, err)
		}
		resp, err := c.ask(ctx, p.clientID, req)
		if err == nil {
			p.put(addr, c)
			return resp, nil
		}
		p.close(c)
		if fresh || ctx.Err() != nil { // an idle one may have been closed meanwhile
			return nil, fmt.Errorf("ask %s: %w", addr, err)
		}
	}
}

// take returns an idle connection, or a fresh one.
func (p *Pool) take(ctx context.Context, addr string) (c *conn, fresh bool, err error) {
	p.mu.Lock()
	if all := p.idle[addr]; len(all) > 0 {
		c = all[len(all)-1]
		p.idle[addr] = all[:len(all)-1]
		p.mu.Unlock()
		return c, false, nil
	}
	full := p.open >= maxOpen
	if !full {
		p.open++
	}
	p.mu.Unlock()
	if full {
		return nil, true, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := p.dial(ctx, addr)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
		return nil, true, err
	}
	return &conn{Conn: nc, in: bufio.NewReader(nc)}, true, nil
}

// put keeps a connection for the next question, and closes those that have
// been idle for long, whoever they lead to.
func (p *Pool) put(addr string, c *conn) {
	now := time.Now()
	c.since = now
	var old []*conn
	p.mu.Lock()
	p.idle[addr] = append(p.idle[addr], c)
	for at, all := range p.idle {
		n := 0
		for n < len(all) && (len(all)-n > maxIdle || now.Sub(all[n].since) > idleTime) {
			n++
		}
		old = append(old, all[:n]...)
		if p.idle[at] = append([]*conn(nil), all[n:]...); n == len(all) {
			delete(p.idle, at)
		}
	}
	p.mu.Unlock()
	for _, c := range old {
		p.close(c)
	}
}

func (p *Pool) close(c *conn) {
	_ = c.Close() // nothing is lost with it
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
}

// Close closes the idle connections. Those in use close with their questions' contexts.
func (p *Pool) Close() {
	p.mu.Lock()
	all := p.idle
	p.idle = make(map[string][]*conn)
	p.mu.Unlock()
	for _, cs := range all {
		for _, c := range cs {
			p.close(c)
		}
	}
}

// ask sends one question and reads its answer.
func (c *conn) ask(ctx context.Context, clientID string, req kmsg.Request) (kmsg.Response, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	c.asked++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))
	if _, err := c.Write(f.AppendRequest(nil, req, c.asked)); err != nil {
		return nil, err
	}
	b, err := wire.ReadResponse(c.in, maxResponse)
	if err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != c.asked {
		return nil, fmt.Errorf("answer %d to question %d", got, c.asked)
	}
	resp := req.ResponseKind()
	b = b[4:]
	if resp.IsFlexible() && resp.Key() != keyAPIVersions { // whose header never has tags (KIP-511)
		if len(b) == 0 || b[0] != 0 {
			return nil, wire.ErrFrameSize
		}
		b = b[1:]
	}
	return resp, resp.ReadFrom(b)
}
