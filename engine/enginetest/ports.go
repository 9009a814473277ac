package enginetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/objstore"
)

// errCut is what a dead process's calls end with, once nobody looks any more.
var errCut = errors.New("enginetest: the process is dead")

// ports are one process's stores. After cut no call of it returns a result;
// writes under way, and those of a paused process, may still land.
type ports struct {
	store objstore.Store
	meta  meta.Store

	mu   sync.Mutex
	dead chan struct{} // closed by cut
	wake chan struct{} // closed when what was sent lands; never, for a killed process
}

func newPorts(s objstore.Store, m meta.Store) *ports {
	return &ports{store: s, meta: m, dead: make(chan struct{}), wake: make(chan struct{})}
}

func (p *ports) asStore() objstore.Store { return cutStore{p} }
func (p *ports) asMeta() meta.Store      { return cutMeta{p} }

func (p *ports) cut(wake time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.dead)
	if wake > 0 {
		time.AfterFunc(wake, func() { close(p.wake) })
	}
}

// pass runs a call of a living process. A dead one's waits for its caller to
// give up; if late is set, the call is made after all when the process wakes.
func (p *ports) pass(ctx context.Context, fn func(context.Context) error, late bool) error {
	select {
	case <-p.dead:
	default:
		err := fn(ctx)
		select {
		case <-p.dead: // the answer finds nobody
			err = errCut
		default:
		}
		return err
	}
	select {
	case <-p.wake:
		if late {
			return fn(context.WithoutCancel(ctx))
		}
	case <-ctx.Done():
	case <-time.After(time.Hour):
	}
	return errCut
}

type cutStore struct{ p *ports }

func (s cutStore) Put(ctx context.Context, key string, body objstore.Body) error {
	return s.p.pass(ctx, func(ctx context.Context) error { return s.p.store.Put(ctx, key, body) }, true)
}

func (s cutStore) ReadAt(ctx context.Context, key string, b []byte, off int64) (n int, size int64, err error) {
	err = s.p.pass(ctx, func(ctx context.Context) (err error) {
		n, size, err = s.p.store.ReadAt(ctx, key, b, off)
		return err
	}, false)
	return n, size, err
}

func (s cutStore) List(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	err = s.p.pass(ctx, func(ctx context.Context) (err error) {
		infos, err = s.p.store.List(ctx, prefix, after, limit)
		return err
	}, false)
	return infos, err
}

func (s cutStore) Delete(ctx context.Context, keys ...string) error {
	return s.p.pass(ctx, func(ctx context.Context) error { return s.p.store.Delete(ctx, keys...) }, true)
}

type cutMeta struct{ p *ports }

func (s cutMeta) Get(ctx context.Context, key meta.Key) (item meta.Item, err error) {
	err = s.p.pass(ctx, func(ctx context.Context) (err error) {
		item, err = s.p.meta.Get(ctx, key)
		return err
	}, false)
	return item, err
}

func (s cutMeta) Query(ctx context.Context, pk string, r meta.Range) (items []meta.Item, more bool, err error) {
	err = s.p.pass(ctx, func(ctx context.Context) (err error) {
		items, more, err = s.p.meta.Query(ctx, pk, r)
		return err
	}, false)
	return items, more, err
}

func (s cutMeta) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	return s.p.pass(ctx, func(ctx context.Context) error { return s.p.meta.Commit(ctx, id, ops...) }, true)
}
