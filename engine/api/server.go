package api

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// drainTimeout bounds how long waiting answers may take to leave at the end.
const drainTimeout = 10 * time.Second

// Serve accepts connections until ctx ends. Then it takes no more requests,
// lets the waiting answers leave, within bounds, and returns nil.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends what does not drain in time
	defer cancel()
	g := new(errgroup.Group)
	g.Go(func() error {
		<-ctx.Done()
		s.drained.Do(func() { close(s.draining) })
		return ignoreClosed(listener.Close())
	})
	g.Go(func() error { return s.accept(ctx, hard, listener) })
	err := g.Wait()
	timer := time.AfterFunc(drainTimeout, cancel)
	defer timer.Stop()
	s.wg.Wait()
	return err
}

func (s *Server) accept(ctx, hard context.Context, listener net.Listener) error {
	for {
		c, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || isExhausted(err) {
				s.o.Logger.Warn("accept", "err", err)
				select { // out of file descriptors: connections must end first
				case <-time.After(50 * time.Millisecond):
					continue
				case <-ctx.Done():
					return nil
				}
			}
			return err
		}
		if int(s.conns.Load()) >= s.o.Config().MaxConnections {
			s.metrics.refused.Inc()
			_ = c.Close() // over max.connections; the peer sees it closed
			continue
		}
		s.conns.Add(1)
		s.metrics.connections.Inc()
		s.wg.Go(func() {
			defer s.conns.Add(-1)
			defer s.metrics.connections.Dec()
			newConn(s, c).serve(hard)
		})
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
