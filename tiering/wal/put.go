package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/varvelog/varve/internal/hedge"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

const (
	defaultPutTimeout = 30 * time.Second
	firstBackoff      = 10 * time.Millisecond
	lastBackoff       = 3 * time.Second
)

// object is what is put under one key. It never changes.
type object struct {
	kind   bundle.Kind
	origin bundle.Origin
	key    string
	body   objstore.Buffers
	sum    uint32
}

func newObject(k bundle.Kind, o bundle.Origin, body [][]byte, sum uint32) object {
	return object{kind: k, origin: o, key: Key(o), body: body, sum: sum}
}

// content returns what is put. Seals stay when the objects around them go.
func (o *object) content() objstore.Body {
	if o.kind == bundle.KindSeal {
		return objstore.Alone{Body: o.body}
	}
	return o.body
}

// outcome is what is known about a PUT in the end.
type outcome int

const (
	applied outcome = iota // it is durable
	sealed                 // somebody's seal is there instead
	taken                  // another WAL object of the same session is there
	foreign                // something is there that nobody should have put
	stopped                // the context ended; nothing is known
)

// putter puts objects.
type putter struct {
	store   objstore.Store
	timeout time.Duration
	hedge   *hedge.Calls // nil: none
	metrics *Metrics
	logger  *slog.Logger
}

// settle puts o, again and again with the same bytes, until it is known what
// is under its key, or ctx ends.
func (p *putter) settle(ctx context.Context, o *object) (outcome, error) {
	for try := 0; ; try++ {
		err := p.attempt(ctx, o)
		if err == nil {
			return applied, nil
		}
		if errors.Is(err, objstore.ErrExists) {
			var out outcome
			if out, err = p.inspect(ctx, o); out != stopped {
				return out, err
			}
		}
		if ctx.Err() != nil {
			return stopped, ctx.Err()
		}
		p.metrics.retries.Inc()
		if try == 0 || try%10 == 9 {
			p.logger.Warn("object not put yet, trying on", "key", o.key, "attempts", try+1, "err", err)
		}
		if !pause(ctx, try) {
			return stopped, ctx.Err()
		}
	}
}

// inspect reads what is under o's key. stopped means that it could not be read.
func (p *putter) inspect(ctx context.Context, o *object) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	got, err := bundle.Read(ctx, bundle.At(p.store, o.key), nil)
	switch {
	case errors.Is(err, bundle.ErrCorrupt):
		return foreign, fmt.Errorf("read %s: %w", o.key, err)
	case err != nil:
		return stopped, err
	case got.Kind == o.kind && got.Origin == o.origin && got.Sum == o.sum:
		return applied, nil
	case got.Kind == bundle.KindSeal && got.Origin.Broker == o.origin.Broker && got.Origin.Epoch == o.origin.Epoch:
		return sealed, nil
	case got.Kind == bundle.KindWAL && got.Origin == o.origin:
		return taken, nil
	}
	return foreign, fmt.Errorf("read %s: kind %d of broker %d, session %d, nonce %x, seq %d is there",
		o.key, got.Kind, got.Origin.Broker, got.Origin.Epoch, got.Origin.Nonce, got.Origin.Seq)
}

// attempt puts o once, or twice at the same time when the first takes longer
// than nearly all did before.
func (p *putter) attempt(ctx context.Context, o *object) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	start := time.Now()
	_, _, err := hedge.Do(ctx, p.hedge, func(err error) bool { return err == nil || errors.Is(err, objstore.ErrExists) },
		func(ctx context.Context) (struct{}, error) { return struct{}{}, p.store.Put(ctx, o.key, o.content()) })
	if err == nil {
		p.metrics.latency.Observe(time.Since(start).Seconds())
	}
	return err
}

// pause waits before attempt try+2: exponentially longer, up to 3 s, with
// jitter. It returns false when ctx ends.
func pause(ctx context.Context, try int) bool {
	d := min(firstBackoff<<min(try, 20), lastBackoff)
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
