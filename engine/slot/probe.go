package slot

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

const (
	dialTimeout = 2 * time.Second
	redial      = 100 * time.Millisecond // between attempts that fail
)

// probes hold one idle connection to each session that is watched. When a
// process ends, its kernel ends them at once; a new attempt then tells whether
// somebody still listens. Nothing is sent.
type probes struct {
	m       *Manager
	running map[catalog.SessionID]context.CancelFunc // beat's
	wg      sync.WaitGroup

	mu      sync.Mutex
	refused map[catalog.SessionID]bool // of those that had accepted one
}

func newProbes(m *Manager) *probes {
	return &probes{m: m, running: make(map[catalog.SessionID]context.CancelFunc), refused: make(map[catalog.SessionID]bool)}
}

// look probes these sessions from now on, and no others, until ctx's parent
// stops, and returns which of them refuse connections.
func (p *probes) look(ctx context.Context, peers []catalog.SessionID) map[catalog.SessionID]bool {
	if p.m.o.Dial == nil {
		return nil
	}
	want := make(map[catalog.SessionID]bool, len(peers))
	for _, id := range peers {
		want[id] = true
		if p.running[id] != nil {
			continue
		}
		member, ok := p.m.o.Catalog.Members().Session(id)
		if !ok || member.Addr == "" {
			continue
		}
		pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p.running[id] = cancel
		p.wg.Go(func() { p.probe(pctx, id, member.Addr) })
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, cancel := range p.running {
		if !want[id] {
			cancel()
			delete(p.running, id)
			delete(p.refused, id)
		}
	}
	return maps.Clone(p.refused)
}

// stop ends all probes and waits for them.
func (p *probes) stop() {
	for _, cancel := range p.running {
		cancel()
	}
	p.wg.Wait()
}

// probe keeps a connection to a session until ctx ends. Only after one was
// accepted does a refusal count: an address that never worked says nothing about the process.
func (p *probes) probe(ctx context.Context, id catalog.SessionID, addr string) {
	accepted := false
	for ctx.Err() == nil {
		dctx, cancel := context.WithTimeout(ctx, dialTimeout)
		c, err := p.m.o.Dial(dctx, addr)
		cancel()
		switch {
		case err == nil:
			accepted = true
			p.set(ctx, id, false)
			if hold(ctx, c) >= redial { // else somebody stands between who takes connections and ends them
				continue
			}
		case accepted:
			p.set(ctx, id, errors.Is(err, syscall.ECONNREFUSED))
		}
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
	}
}

// set notes what was seen; a change is told at once.
func (p *probes) set(ctx context.Context, id catalog.SessionID, refused bool) {
	p.mu.Lock()
	changed := p.refused[id] != refused
	if ctx.Err() == nil {
		p.refused[id] = refused
	}
	p.mu.Unlock()
	if changed || refused {
		p.m.look()
	}
}

// hold waits until a connection ends, or ctx, and returns for how long it was there.
func hold(ctx context.Context, c net.Conn) time.Duration {
	begin := time.Now()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	var b [1]byte
	_, _ = c.Read(b[:]) // nobody sends anything
	_ = c.Close()
	return time.Since(begin)
}
