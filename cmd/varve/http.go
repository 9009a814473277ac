package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// web is the broker's HTTP listener: metrics, health, profiles.
type web struct {
	ready  atomic.Bool
	server *http.Server
	done   chan struct{}
}

// startHTTP serves addr until stop; "" is no listener.
func startHTTP(ctx context.Context, addr string, reg *prometheus.Registry, log *slog.Logger) (*web, error) {
	w := &web{done: make(chan struct{})}
	if addr == "" {
		close(w.done)
		return w, nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(rw, "varve broker\n/metrics\n/healthz\n/readyz\n/debug/pprof/")
	})
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	mux.HandleFunc("/readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if !w.ready.Load() || ctx.Err() != nil {
			http.Error(rw, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for http: %w (--http takes another address, \"\" none)", err)
	}
	w.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(w.done)
		if err := w.server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Warn("http server ended", "err", err)
		}
	}()
	return w, nil
}

func (w *web) stop() {
	if w.server != nil {
		_ = w.server.Close() // connections to it are nobody's work
	}
	<-w.done
}
