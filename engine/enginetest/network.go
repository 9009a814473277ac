package enginetest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// errRefused is what a dial gets where nobody listens.
var errRefused = fmt.Errorf("enginetest: %w", syscall.ECONNREFUSED)

// synTimeout is how long a dial into a partition tries.
const synTimeout = 5 * time.Second

// gate holds up what passes it while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // closed when it opens again; nil: open
}

// close shuts the gate; open undoes it. They need not alternate.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// pass waits until the gate is open, or quit is closed (false).
func (g *gate) pass(quit <-chan struct{}) bool {
	for {
		g.mu.Lock()
		shut := g.shut
		g.mu.Unlock()
		if shut == nil {
			return true
		}
		select {
		case <-shut:
		case <-quit:
			return false
		}
	}
}

// network carries bytes between clients and processes. A pair of hosts can be
// cut off from each other: then what is sent stays on the way until the cut heals.
type network struct {
	dice *dice

	mu        sync.Mutex
	listeners map[string]*process // address → who listens there now
	cuts      map[[2]string]*gate // pair of host names, sorted
}

func newNetwork(d *dice) *network {
	return &network{dice: d, listeners: make(map[string]*process), cuts: make(map[[2]string]*gate)}
}

// between returns the gate between two hosts.
func (n *network) between(a, b string) *gate {
	n.mu.Lock()
	defer n.mu.Unlock()
	pair := [2]string{min(a, b), max(a, b)}
	if n.cuts[pair] == nil {
		n.cuts[pair] = new(gate)
	}
	return n.cuts[pair]
}

// listen makes p the one who listens at its address.
func (n *network) listen(p *process) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[p.addr] = p
}

func (n *network) listener(addr string) *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[addr]
}

// line is somebody's way into the network: a client's, or a process's.
type line struct {
	network *network
	host    string
	process *process      // nil: a client
	down    chan struct{} // closed by cut

	mu    sync.Mutex
	links []*link
}

// cut ends all connections, and all attempts at one, for good and at once.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.down:
		return
	default:
		close(l.down)
	}
	for _, k := range l.links {
		k.close()
	}
}

// hold remembers a connection, for cut.
func (l *line) hold(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.down:
		k.close()
	default:
		l.links = append(l.links, k)
	}
}

// dial connects to an address. It takes time: a dial that took none could be
// repeated for ever at one instant.
func (l *line) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, synTimeout)
	defer cancel()
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		select {
		case <-ctx.Done():
		case <-l.down:
		}
	}()
	// Also one that is given up takes time: who dials again and again must not do it all at one instant. But a client
	// that is being closed is not to wait for anything.
	var closed <-chan struct{}
	if l.process == nil {
		closed = l.down
	}
	select {
	case <-time.After(200*time.Microsecond + l.network.dice.upTo("dial", 3*time.Millisecond)):
	case <-closed:
		return nil, errRefused
	}
	if l.process != nil && !l.process.awake() {
		<-stop
		return nil, errRefused
	}
	p := l.network.listener(addr)
	if p == nil {
		return nil, errRefused
	}
	cut := l.network.between(l.host, p.host)
	if !cut.pass(stop) {
		return nil, context.DeadlineExceeded
	}
	return l.connect(p, cut, stop)
}

// connect makes the connection, if p accepts it.
func (l *line) connect(p *process, cut *gate, stop <-chan struct{}) (net.Conn, error) {
	near, far := net.Pipe()
	back, server := net.Pipe()
	k := &link{network: l.network, from: l.process, to: p, cut: cut, ends: []net.Conn{near, far, back, server}, down: make(chan struct{})}
	select {
	case p.conns <- server:
	case <-p.closed:
		k.close()
		return nil, errRefused
	case <-stop:
		k.close()
		return nil, context.DeadlineExceeded
	}
	p.line.hold(k)
	l.hold(k)
	go k.carry(back, far)
	go k.carry(far, back)
	return near, nil
}

// link is a connection: two pipes, and what carries the bytes from one to the
// other.
//
//	client near ═ far ─▶ carry ─▶ back ═ server
type link struct {
	network  *network
	from, to *process // from is nil for a client's
	cut      *gate
	ends     []net.Conn
	once     sync.Once
	down     chan struct{}
}

// carry brings what is written at one end to the other, through all that may
// hold it up, until an end is closed.
func (l *link) carry(dst, src net.Conn) {
	defer l.close()
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		time.Sleep(50*time.Microsecond + l.network.dice.upTo("wire", 200*time.Microsecond))
		if !l.pass() {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (l *link) pass() bool {
	return l.cut.pass(l.down) && l.to.paused.pass(l.down) && (l.from == nil || l.from.paused.pass(l.down))
}

// close breaks the connection for both ends.
func (l *link) close() {
	l.once.Do(func() {
		close(l.down)
		for _, c := range l.ends {
			_ = c.Close()
		}
	})
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// overdue asks again and again whether something is done, and tells that it is not within limit. Who is told to
// stop by ctx, behind which nothing takes time any more, asks once more and does not wait.
func overdue(ctx context.Context, limit, every time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); !done(); wait(ctx, every) {
		if ctx.Err() != nil {
			return false
		}
		if time.Now().After(end) {
			return true
		}
	}
	return false
}
