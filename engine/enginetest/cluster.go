// Package enginetest runs a whole broker in a testing/synctest bubble: real
// franz-go clients over in-memory pipes, memory stores with faults, kills and
// zombies, all decided by one seed; and checks the history that results.
package enginetest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/varvelog/varve/engine/api"
	"github.com/varvelog/varve/engine/broker"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/objstore"
)

// errRefused is what a dial gets while no broker listens.
var errRefused = errors.New("connection refused")

// cluster is one broker id over stores that outlive its processes.
type cluster struct {
	store  objstore.Store
	meta   meta.Store
	config *config.Broker
	delay  func() time.Duration // of a dial: one that took no time could be repeated for ever at one instant

	mu  sync.Mutex
	now *process
}

// process is one life of the broker.
type process struct {
	ports  *ports
	cancel context.CancelFunc
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	done   chan error

	mu   sync.Mutex
	open []net.Conn
}

// start begins a process; stop or kill ends it.
func (c *cluster) start(ctx context.Context) *process {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{ports: newPorts(c.store, c.meta), cancel: cancel, conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan error, 1)}
	c.mu.Lock()
	c.now = p
	c.mu.Unlock()
	go func() {
		p.done <- broker.Run(ctx, broker.Options{
			Meta: p.ports.asMeta(), Store: p.ports.asStore(), Listener: p, Self: api.Broker{ID: 1, Host: "broker", Port: 9092},
			Config: c.config, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		_ = p.Close() // nobody can connect to what has ended
	}()
	return p
}

// stop drains the process, as Ctrl-C does.
func (p *process) stop() error {
	p.cancel()
	return <-p.done
}

// kill cuts the process off at once, as kill -9 does: its connections break,
// and its calls hang. With wake it was only paused: what it had sent lands, all at
// once, when wake has passed.
func (p *process) kill(wake time.Duration) {
	p.ports.cut(wake)
	_ = p.Close()
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	for _, conn := range open {
		_ = conn.Close()
	}
	p.cancel()
}

// dial connects a client to the process of the moment.
func (c *cluster) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	wait(ctx, c.delay())
	c.mu.Lock()
	p := c.now
	c.mu.Unlock()
	if p == nil {
		return nil, errRefused
	}
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		p.mu.Lock()
		p.open = append(p.open, server)
		p.mu.Unlock()
		return client, nil
	case <-p.closed:
	case <-ctx.Done():
	}
	return nil, errors.Join(errRefused, client.Close(), server.Close())
}

// Accept implements net.Listener.
func (p *process) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *process) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *process) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9092} }

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
