package wal

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	replayReads = 32       // footers read at a time
	replayTail  = 16 << 10 // bytes of a first read: the footer of nearly every WAL object
)

// Span is a run of a session's WAL objects.
type Span struct {
	Session  bundle.Origin // Seq is not used
	From, To int64         // sequence numbers, To exclusive
}

// Replay reads the footers of a span, many at a time, and calls fn with each
// in sequence order (o.Origin.Seq), from one goroutine. fn's error ends it.
// An object that is missing, is a seal or another session's is ErrHole; other
// errors are the store's, and the whole may be tried again.
func Replay(ctx context.Context, store objstore.Store, span Span, fn func(key string, o *bundle.Object) error) error {
	type result struct {
		o   *bundle.Object
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	n := max(0, span.To-span.From)
	lanes := make([]chan result, min(n, replayReads)) // number i is read in lane i mod len
	bufs := make([][]byte, len(lanes))
	read := func(i int64) {
		lane := i % int64(len(lanes))
		wg.Go(func() {
			o, err := readWAL(ctx, store, span.Session, span.From+i, bufs[lane])
			lanes[lane] <- result{o, err}
		})
	}
	for i := range lanes {
		lanes[i], bufs[i] = make(chan result, 1), make([]byte, replayTail)
		read(int64(i))
	}
	for i := range n {
		r := <-lanes[i%int64(len(lanes))]
		if r.err != nil {
			return r.err
		}
		if next := i + int64(len(lanes)); next < n {
			read(next)
		}
		if err := fn(Key(r.o.Origin), r.o); err != nil {
			return err
		}
	}
	return nil
}

func readWAL(ctx context.Context, store objstore.Store, want bundle.Origin, seq int64, buf []byte) (*bundle.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultPutTimeout)
	defer cancel()
	want.Seq = seq
	key := Key(want)
	o, err := bundle.Read(ctx, bundle.At(store, key), buf)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return nil, fmt.Errorf("replay %s: %w: %w", key, ErrHole, err)
	case err != nil:
		return nil, fmt.Errorf("replay %s: %w", key, err)
	case o.Kind != bundle.KindWAL || o.Origin != want:
		return nil, fmt.Errorf("replay %s: %w: kind %d, nonce %x, seq %d is there", key, ErrHole, o.Kind, o.Origin.Nonce, o.Origin.Seq)
	}
	return o, nil
}
