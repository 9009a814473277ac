package api

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// drainTimeout bounds how long waiting answers may take to leave at the end.
	drainTimeout = 10 * time.Second
	// acceptPause is the wait for descriptors to come free.
	acceptPause = 50 * time.Millisecond
)

// Serve accepts connections until ctx ends. Then it takes no more requests,
// lets the waiting answers leave, within bounds, and returns nil. A listener
// that fails ends it likewise, with its error. Serve is called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends what does not drain in time
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		return ignoreClosed(listener.Close())
	})
	g.Go(func() error { return s.accept(ctx, hard, listener) })
	err := g.Wait()
	s.drain()
	timer := time.AfterFunc(drainTimeout, cancel)
	defer timer.Stop()
	s.wg.Wait()
	return err
}

func (s *Server) accept(ctx, hard context.Context, listener net.Listener) error {
	for {
		c, err := listener.Accept()
		switch {
		case err == nil:
			s.admitConn(hard, c)
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the listener was closed for it
		case isExhausted(err):
			s.o.Logger.Warn("accept connection", "err", err)
			select { // connections must end first
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return nil
			}
		default:
			return err
		}
	}
}

// admitConn serves a connection, or closes it where there are too many.
func (s *Server) admitConn(hard context.Context, nc net.Conn) {
	c := newConn(s, nc)
	if !s.register(c) {
		s.metrics.refused.Inc()
		_ = nc.Close() // refused: the peer sees it closed
		return
	}
	s.metrics.connections.Inc()
	s.wg.Go(func() {
		defer s.metrics.connections.Dec()
		defer s.unregister(c)
		c.serve(hard)
	})
}

// register counts a connection in; false over max.connections or at the end.
func (s *Server) register(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained || len(s.conns) >= s.o.Config().MaxConnections {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) unregister(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// drain makes all readers stop and all long polls answer.
func (s *Server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drained = true
	for c := range s.conns {
		c.drain()
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
