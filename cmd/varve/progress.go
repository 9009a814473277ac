package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// progress shows a running count on a terminal; elsewhere it shows nothing.
type progress struct {
	done chan struct{}
	wg   sync.WaitGroup
}

// startProgress shows n, a number of records, until stop is called.
func startProgress(w io.Writer, n *atomic.Int64) *progress {
	return startLine(w, func(since time.Duration) string {
		return fmt.Sprintf("%d records, %.0f/s", n.Load(), float64(n.Load())/since.Seconds())
	})
}

// startLine shows what line returns, given the time that has passed, until
// stop is called.
func startLine(w io.Writer, line func(since time.Duration) string) *progress {
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
				fmt.Fprintf(w, "\r\033[K%s", line(time.Since(begin)))
			case <-p.done:
				fmt.Fprint(w, "\r\033[K")
				return
			}
		}
	})
	return p
}

// bar draws done of total, with what is left of the time.
func bar(done, total int64, since time.Duration) string {
	const width = 30
	part := 1.0
	if total > 0 {
		part = min(1, float64(done)/float64(total))
	}
	full := int(part * width)
	left := ""
	if part > 0.01 && part < 1 {
		left = fmt.Sprintf(", %v left", time.Duration(float64(since)*(1-part)/part).Round(time.Second))
	}
	return fmt.Sprintf("[%s%s] %3.0f %%%s", strings.Repeat("=", full), strings.Repeat(" ", width-full), part*100, left)
}

func (p *progress) stop() {
	close(p.done)
	p.wg.Wait()
}
