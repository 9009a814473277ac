// Package enginetest runs whole brokers in a testing/synctest bubble: real
// franz-go clients over an in-memory network that can be partitioned, memory stores
// with faults, kills, pauses and zombies, all decided by one seed; and checks
// the history that results and every write that was made.
//
//	clients ══ network ══ process ── ports (faults, pause, death) ── ledger (invariants) ── memmeta, memstore
package enginetest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/engine/api"
	"github.com/varvelog/varve/engine/broker"
	"github.com/varvelog/varve/internal/kafka/config"
)

// cluster is what outlives the processes of its brokers.
type cluster struct {
	dice    *dice
	network *network
	faults  *faults
	ledger  *ledger
	config  map[string]string // of all brokers

	mu    sync.Mutex
	lives []*process
	racks map[int32]string // of each broker id's next process, where it has moved
}

func newCluster(d *dice, cfg map[string]string) *cluster {
	return &cluster{dice: d, network: newNetwork(d), faults: &faults{dice: d}, ledger: newLedger(), config: cfg, racks: make(map[int32]string)}
}

func hostOf(id int32) string { return fmt.Sprintf("broker-%d", id) }

// process is one life of a broker.
type process struct {
	number int // among all lives
	id     int32
	host   string
	addr   string
	rack   string
	paused gate          // nothing leaves or arrives while it is shut
	stores gate          // no store can be reached while it is shut
	stuck  sync.Map      // operations of the stores whose next call is not answered for a while
	dead   chan struct{} // closed by kill
	cancel context.CancelFunc
	ready  chan struct{} // closed when it serves
	ended  chan struct{} // closed when it has returned
	err    error         // why, when ended

	metrics *prometheus.Registry

	conns  chan net.Conn
	closed chan struct{} // closed when nobody listens any more
	once   sync.Once
	line   *line
}

// start begins a process of a broker id. From now on the id's address is its own.
func (c *cluster) start(ctx context.Context, id int32) (*process, error) {
	cfg, err := config.ParseBroker(c.config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &process{
		id: id, host: hostOf(id), addr: hostOf(id) + ":9092", rack: c.rackOf(id), cancel: cancel, dead: make(chan struct{}), ready: make(chan struct{}),
		ended: make(chan struct{}), conns: make(chan net.Conn), closed: make(chan struct{}), metrics: prometheus.NewRegistry(),
	}
	c.mu.Lock()
	p.number = len(c.lives)
	c.lives = append(c.lives, p)
	c.mu.Unlock()
	p.line = &line{network: c.network, host: p.host, process: p, down: make(chan struct{})}
	c.network.listen(p)
	ports := &ports{process: p, faults: c.faults, ledger: c.ledger}
	go func() {
		defer close(p.ended)
		p.err = broker.Run(ctx, broker.Options{
			Meta: metaPort{ports}, Store: storePort{ports}, Listener: p, Self: api.Broker{ID: id, Host: p.host, Port: 9092, Rack: p.rack},
			Dial:   func(ctx context.Context, addr string) (net.Conn, error) { return c.dial(ctx, p, addr) },
			Config: cfg, Logger: logger(p), Registry: p.metrics, Ready: func(string) { close(p.ready) },
		})
		_ = p.Close() // nobody can connect to what has ended
	}()
	return p, nil
}

// dial connects a process to another one.
func (c *cluster) dial(ctx context.Context, p *process, addr string) (net.Conn, error) {
	conn, err := p.line.dial(ctx, "tcp", addr)
	if b := c.ledger.broken; err == nil && (b == followerAhead || b == followerForgets) {
		return newMeddler(conn, c.ledger), nil
	}
	return conn, err
}

// logger writes to standard error where VARVE_SIM_LOG is set.
func logger(p *process) *slog.Logger {
	if os.Getenv("VARVE_SIM_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("life", p.number, "id", p.id)
}

// stop drains the process, as Ctrl-C does.
func (p *process) stop() error {
	p.cancel()
	<-p.ended
	return p.err
}

// kill cuts the process off at once, as kill -9 does: its connections break
// and no call of it returns. Writes that are on their way may still land.
func (p *process) kill() {
	select {
	case <-p.dead:
		return
	default:
	}
	close(p.dead)
	_ = p.Close()
	p.line.cut()
	p.cancel()
	p.paused.open()
}

// pause stops the process as SIGSTOP does: nothing that it sends leaves, nothing
// that it asked for is answered, until it is resumed. Its connections stay.
func (p *process) pause()  { p.paused.close() }
func (p *process) resume() { p.paused.open() }

// awake waits until the process is not paused; false: it is dead.
func (p *process) awake() bool {
	if !p.paused.pass(p.dead) {
		return false
	}
	select {
	case <-p.dead:
		return false
	default:
		return true
	}
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

// up waits until the process serves; false: it has ended instead.
func (p *process) up() bool {
	select {
	case <-p.ready:
		return true
	case <-p.ended:
		return false
	}
}

// over tells whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// everybody returns all processes that were ever started.
func (c *cluster) everybody() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lives[:len(c.lives):len(c.lives)]
}

// latency is what a call of a store takes at least.
const latency = 200 * time.Microsecond
