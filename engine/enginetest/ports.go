package enginetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/objstore"
)

var (
	// errCut is what a dead process's calls end with, once nobody looks any more.
	errCut = errors.New("enginetest: the process is dead")
	// errUnknown is what a fault answers: the call may have been applied, or be
	// applied later, or not.
	errUnknown = errors.New("enginetest: injected fault, outcome unknown")
)

// fate is what becomes of a call.
type fate uint8

const (
	goes    fate = iota // goes through
	refused             // meta.ErrBusy: not applied
	fails               // unknown outcome: not applied
	applied             // unknown outcome: applied
	later               // unknown outcome: tried after the answer
)

// fault is a call's fate, and what time it takes.
type fault struct {
	fate          fate
	before, after time.Duration // on the way there and back
	later         time.Duration // of the fate of that name
}

// faults decides the calls' fates.
type faults struct {
	dice *dice

	slower map[string]time.Duration // that an operation takes longer

	mu    sync.Mutex
	calm  bool           // no more faults
	down  time.Time      // both stores fail until then
	calls map[string]int // so far, by operation
}

// tally counts a call.
func (f *faults) tally(op string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = make(map[string]int)
	}
	f.calls[op]++
}

// counted returns the calls so far, by operation.
func (f *faults) counted() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// tears says whether a query's items are read one after the other.
func (f *faults) tears() bool { return !f.isCalm() && f.dice.oneIn("torn", 6) }

// settle ends all faults.
func (f *faults) settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calm, f.down = true, time.Time{}
}

// outage makes all calls fail for a time.
func (f *faults) outage(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = time.Now().Add(d)
}

func (f *faults) isCalm() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calm
}

func (f *faults) isDown() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(f.down)
}

// next decides one call. Reads, of which a start makes hundreds, fail less
// often than writes.
func (f *faults) next(op string, write, busy bool) fault {
	f.tally(op)
	out := fault{before: latency + f.slower[op] + f.dice.upTo(op, 4*time.Millisecond), after: latency + f.dice.upTo(op, 4*time.Millisecond)}
	if !write && !f.isCalm() && f.dice.oneIn(op, 100) {
		out.after += f.dice.upTo(op, time.Second) // what it says is old by then
	}
	switch {
	case f.isCalm(), !write && f.dice.below(op, 50) > 0 && !f.isDown():
		return out
	case f.isDown():
		out.fate = fails
		if write && f.dice.oneIn(op, 10) {
			out.fate = applied
		}
		return out
	}
	switch f.dice.below(op, 50) {
	case 0:
		out.fate = fails
	case 1:
		out.fate = applied
	case 2:
		out.fate, out.later = later, f.dice.upTo(op, 6*time.Second)
	case 3:
		out.before = f.dice.upTo(op, 3*time.Second)
	case 4:
		out.after = f.dice.upTo(op, 3*time.Second)
	case 5:
		if busy {
			out.fate = refused
		}
	}
	return out
}

// ports are one process's way to the stores.
type ports struct {
	process *process
	faults  *faults
	ledger  *ledger
}

// sticks returns what a call takes longer, if it is one that is stuck.
func (p *process) sticks(op string) time.Duration {
	if _, stuck := p.stuck.LoadAndDelete(op); stuck {
		return 10 * time.Second
	}
	return 0
}

// write makes a call that changes something. It is on its way as soon as it is
// made: whether it lands no longer depends on the caller, who may give up, be paused or die.
func (p *ports) write(ctx context.Context, op string, busy bool, effect func() error) error {
	if err := p.alive(ctx); err != nil {
		return err
	}
	f := p.faults.next(op, true, busy)
	f.before += p.process.sticks(op)
	landed := make(chan error, 1)
	go func() {
		time.Sleep(f.before)
		switch f.fate {
		case goes:
			landed <- effect()
		case refused:
			landed <- meta.ErrBusy
		case fails:
			landed <- errUnknown
		case applied:
			_ = effect() // its own refusal too is lost on the way
			landed <- errUnknown
		case later:
			landed <- errUnknown
			time.Sleep(f.later)
			_ = effect()
		}
	}()
	var err error
	select {
	case err = <-landed:
		wait(ctx, f.after)
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.process.dead:
	}
	if cut := p.alive(ctx); cut != nil {
		return cut
	}
	return err
}

// read makes a call that only looks.
func (p *ports) read(ctx context.Context, op string, look func() error) error {
	if err := p.alive(ctx); err != nil {
		return err
	}
	f := p.faults.next(op, false, false)
	f.before += p.process.sticks(op)
	wait(ctx, f.before)
	if err := ctx.Err(); err != nil {
		return err
	}
	err := look()
	wait(ctx, f.after)
	if f.fate != goes {
		err = errUnknown
	}
	if cut := p.alive(ctx); cut != nil {
		return cut
	}
	return err
}

// alive holds up a paused process, and one that cannot reach the stores until its caller
// gives up, as a dead one's.
func (p *ports) alive(ctx context.Context) error {
	if !p.process.stores.pass(ctx.Done()) {
		return ctx.Err()
	}
	if p.process.awake() {
		return nil
	}
	wait(ctx, time.Hour)
	return errCut
}

type storePort struct{ p *ports }

func (s storePort) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := body.WriteTo(&b); err != nil {
		return err
	}
	s.p.ledger.send(key, b.Bytes())
	return s.p.write(ctx, "put", false, func() error { return s.p.ledger.put(key, b.Bytes()) })
}

func (s storePort) ReadAt(ctx context.Context, key string, b []byte, off int64) (n int, size int64, err error) {
	err = s.p.read(ctx, "read", func() (err error) {
		n, size, err = s.p.ledger.readAt(ctx, key, b, off)
		return err
	})
	return n, size, err
}

// List is torn as a query is.
func (s storePort) List(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	infos, err = s.list(ctx, prefix, after, limit)
	if err != nil || !s.p.faults.tears() {
		return infos, err
	}
	wait(ctx, s.p.faults.dice.upTo("torn for", time.Second))
	late, err := s.list(ctx, prefix, after, 2*limit)
	if err != nil {
		return nil, err
	}
	infos = torn(infos, late, len(infos) == limit, s.p.faults.dice.below("torn at", len(infos)+1), func(a, b objstore.Info) int { return cmp.Compare(a.Key, b.Key) })
	return infos[:min(len(infos), limit)], nil
}

func (s storePort) list(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	err = s.p.read(ctx, "list", func() (err error) {
		infos, err = s.p.ledger.objects.List(ctx, prefix, after, limit)
		return err
	})
	return infos, err
}

func (s storePort) Delete(ctx context.Context, keys ...string) error {
	if err := objstore.ValidateDelete(keys); err != nil {
		return err
	}
	return s.p.write(ctx, "delete", false, func() error { return s.p.ledger.delete(keys) })
}

type metaPort struct{ p *ports }

func (s metaPort) Get(ctx context.Context, key meta.Key) (item meta.Item, err error) {
	err = s.p.read(ctx, "get", func() (err error) {
		item, err = s.p.ledger.items.Get(ctx, key)
		return err
	})
	return item, err
}

// Query reads some of its items before, and the others after, a while in which others commit.
func (s metaPort) Query(ctx context.Context, pk string, r meta.Range) (items []meta.Item, more bool, err error) {
	items, more, err = s.query(ctx, pk, r)
	if err != nil || !s.p.faults.tears() {
		return items, more, err
	}
	wait(ctx, s.p.faults.dice.upTo("torn for", time.Second))
	further := r
	further.Limit *= 2 // so that what was put meanwhile does not end it early
	late, moreLate, err := s.query(ctx, pk, further)
	if err != nil {
		return nil, false, err
	}
	order := cmp.Compare[string]
	if r.Reverse {
		order = func(a, b string) int { return cmp.Compare(b, a) }
	}
	items = torn(items, late, more, s.p.faults.dice.below("torn at", len(items)+1), func(a, b meta.Item) int { return order(a.SK, b.SK) })
	if r.Limit > 0 && len(items) > r.Limit {
		return items[:r.Limit], true, nil
	}
	return items, more || moreLate, nil
}

func (s metaPort) query(ctx context.Context, pk string, r meta.Range) (items []meta.Item, more bool, err error) {
	err = s.p.read(ctx, "query", func() (err error) {
		items, more, err = s.p.ledger.items.Query(ctx, pk, r)
		return err
	})
	return items, more, err
}

// torn is what a reader gets that passed the place of late's item at while there was what early says before it:
// of two that were put meanwhile, it may get the second alone. cut: early ends at a limit, and says nothing of what lies behind.
func torn[T any](early, late []T, cut bool, at int, order func(a, b T) int) []T {
	if at >= len(late) {
		return early
	}
	n := 0
	for n < len(early) && order(early[n], late[at]) < 0 {
		n++
	}
	if cut && n == len(early) && n > 0 {
		at = 0
		for order(late[at], early[n-1]) <= 0 {
			at++
		}
	}
	return append(early[:n:n], late[at:]...)
}

func (s metaPort) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	if err := meta.Validate(id, ops); err != nil {
		return err
	}
	return s.p.write(ctx, "commit", true, func() error { return s.p.ledger.commit(s.p.process, id, ops) })
}
