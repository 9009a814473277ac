package slot

import (
	"context"
	"time"
)

// pacer makes sealing yield to produce: while the WAL grows, sealing works for
// a share of the time only. The share grows with the WAL that waits to be
// trimmed, so that sealing keeps up in the end.
//
//	WAL not trimmed   0 ──────── ¼ ──────── ½ of what may wait ────▶
//	share of time    1/8        1/2         1
//
// One goroutine uses it.
type pacer struct {
	written  func() int64   // bytes of WAL so far
	backlog  func() float64 // WAL that waits to be trimmed, 1 being the most
	hurry    func() bool    // somebody waits for the work to be done
	seen     int64          // of written
	returned time.Time      // when the last wait ended, or the work began
}

const (
	leastShare = 1.0 / 8
	longestJob = time.Second / 4 // what lies between two waits is taken for no longer
)

// begin is called where work begins: what was before was none.
func (p *pacer) begin() { p.returned, p.seen = time.Now(), p.written() }

// wait is called between pieces of work.
func (p *pacer) wait(ctx context.Context, _ int64) error {
	worked := min(time.Since(p.returned), longestJob)
	defer func() { p.returned = time.Now() }()
	written := p.written()
	busy := written != p.seen
	p.seen = written
	share := min(max(leastShare, 2*p.backlog()), 1)
	if !busy || share == 1 || p.hurry() {
		return ctx.Err()
	}
	timer := time.NewTimer(time.Duration(float64(worked) * (1/share - 1)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pace returns a function that makes background work yield to produce: called
// by one goroutine between pieces of work, it lets it work for half of the
// time while written, the bytes of WAL so far, grows.
func Pace(written func() int64) func(ctx context.Context, n int64) error {
	p := &pacer{written: written, backlog: func() float64 { return 1.0 / 4 }, hurry: func() bool { return false }}
	return p.wait
}

// Written returns the bytes of WAL that the session has written.
func (m *Manager) Written() int64 { return m.wal.Position().Bytes }
