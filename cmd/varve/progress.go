package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// progress shows a running count on a terminal; elsewhere it shows nothing.
type progress struct {
	done chan struct{}
	wg   sync.WaitGroup
}

// startProgress shows n, named by unit, until stop is called.
func startProgress(w io.Writer, unit string, n *atomic.Int64) *progress {
	p := &progress{done: make(chan struct{})}
	f, ok := w.(*os.File)
	if !ok || !isTerminal(f) {
		return p
	}
	p.wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		begin := time.Now()
		for {
			select {
			case <-tick.C:
				rate := float64(n.Load()) / time.Since(begin).Seconds()
				fmt.Fprintf(w, "\r\033[K%d %s, %.0f/s", n.Load(), unit, rate)
			case <-p.done:
				fmt.Fprint(w, "\r\033[K")
				return
			}
		}
	})
	return p
}

func (p *progress) stop() {
	close(p.done)
	p.wg.Wait()
}
