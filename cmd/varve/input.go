package main

import (
	"context"
	"errors"
	"io"
)

// errInterrupted ends input that was read until a signal came.
var errInterrupted = errors.New("interrupted")

// interruptible reads from r until ctx ends, though a read of a terminal or a
// pipe goes on until something comes. The goroutine that reads ends with the process.
type interruptible struct {
	stop <-chan struct{}
	more chan []byte // what was read
	done chan error  // how it ended, behind that
	rest []byte
}

func newInterruptible(ctx context.Context, r io.Reader) *interruptible {
	in := &interruptible{stop: ctx.Done(), more: make(chan []byte), done: make(chan error, 1)}
	go func() {
		for {
			buf := make([]byte, 64<<10)
			n, err := r.Read(buf)
			if n > 0 {
				select {
				case in.more <- buf[:n]:
				case <-in.stop:
					return
				}
			}
			if err != nil {
				in.done <- err
				return
			}
		}
	}()
	return in
}

// Read implements io.Reader; errInterrupted: ctx has ended.
func (in *interruptible) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		select {
		case in.rest = <-in.more:
		case err := <-in.done:
			return 0, err
		case <-in.stop:
			return 0, errInterrupted
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}
