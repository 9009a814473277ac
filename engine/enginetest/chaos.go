package enginetest

import (
	"context"
	"sync"
	"time"
)

// startLimit is how long a broker may try to start, whatever the faults.
const startLimit = 3 * time.Minute

// chaos harms one broker after the other, or several at a time; each harm
// repairs what it did. It returns when the last has.
func (w *world) chaos(ctx context.Context) {
	d := w.dice
	if w.cluster.ledger.broken == followerForgets {
		w.leftBehind(ctx)
		return
	}
	busy := make(map[int32]chan struct{})
	var harms sync.WaitGroup
	for range (2 + d.below("chaos", 4)) * (1 + len(w.ids)/3) {
		if ctx.Err() != nil {
			break
		}
		wait(ctx, 300*time.Millisecond+d.upTo("chaos", 4*time.Second))
		id := w.ids[d.below("chaos", len(w.ids))]
		if last := busy[id]; last != nil {
			select {
			case <-last:
			default:
				if len(w.ids) > 1 {
					continue
				}
				<-last
			}
		}
		done := make(chan struct{})
		busy[id] = done
		harms.Go(func() {
			defer close(done)
			w.strike(ctx, id)
		})
	}
	harms.Wait()
}

// strike does one harm to a broker and repairs it.
func (w *world) strike(ctx context.Context, id int32) {
	d := w.dice
	p := w.life(id)
	harm := d.below("chaos", 12)
	switch w.cluster.ledger.broken { // what the broken rule is to be safe against
	case putReplaces, sealsVanish, trimFirst:
		harm = 4
	}
	if d.oneIn("racks", 3) { // if it is started again
		w.cluster.moveRack(id, rackName(d.below("racks", racks)))
	}
	switch harm {
	case 0, 1:
		_ = p.stop() // what it could not do under faults, the next start does
		wait(ctx, d.upTo("chaos", 500*time.Millisecond))
		w.restart(ctx, id)
	case 2, 3:
		p.kill()
		wait(ctx, d.upTo("chaos", 4*time.Second))
		w.restart(ctx, id)
	case 4, 5:
		w.replaced(ctx, p)
	case 6, 7:
		p.pause()
		wait(ctx, w.nap())
		p.resume()
	case 8: // two processes with one id
		twin := w.start(ctx, id)
		wait(ctx, d.upTo("chaos", 3*time.Second))
		p.kill()
		if !twin.up() {
			w.restart(ctx, id)
		}
	case 9:
		w.cut(ctx, p)
	case 10:
		p.stores.close()
		wait(ctx, w.nap())
		p.stores.open()
	case 11:
		w.cluster.faults.outage(d.upTo("chaos", 5*time.Second))
	}
}

// nap returns how long something stands still: at times longer than any timeout.
func (w *world) nap() time.Duration {
	asleep := 500*time.Millisecond + w.dice.upTo("chaos", 5*time.Second)
	if w.dice.oneIn("chaos", 4) {
		asleep += w.dice.upTo("chaos", 80*time.Second)
	}
	return asleep
}

// replaced pauses a process, starts another in its place, and lets it go on when that has
// taken over, or earlier, or long after: with all that it had under way, its
// connections included. Some time later it is killed.
func (w *world) replaced(ctx context.Context, p *process) {
	p.pause()
	asleep, alive := w.nap(), 200*time.Millisecond+w.dice.upTo("chaos", 3*time.Second)
	go func() {
		wait(ctx, asleep)
		p.resume()
		wait(ctx, alive)
		p.kill()
	}()
	wait(ctx, w.dice.upTo("chaos", 500*time.Millisecond))
	w.restart(ctx, p.id)
}

// cut cuts a broker off from some of its peers, from its clients, or from all.
func (w *world) cut(ctx context.Context, p *process) {
	var gates []*gate
	for _, host := range append(w.hosts(), "clients") {
		if host != p.host && w.dice.below("chaos", 3) > 0 {
			gates = append(gates, w.cluster.network.between(host, p.host))
		}
	}
	for _, g := range gates {
		g.close()
	}
	wait(ctx, w.nap())
	for _, g := range gates {
		g.open()
	}
}

// leftBehind cuts brokers off from the stores, all but one, which takes their slots and of which
// they hear nothing; clients and the others reach them.
func (w *world) leftBehind(ctx context.Context) {
	wait(ctx, 10*time.Second)
	for _, id := range w.ids[1:] {
		p := w.life(id)
		p.stores.close()
		defer p.stores.open()
	}
	wait(ctx, 90*time.Second)
}

func (w *world) hosts() []string {
	var all []string
	for _, id := range w.ids {
		all = append(all, hostOf(id))
	}
	return all
}

// start begins a process of a broker id, which is the id's life from now on.
func (w *world) start(ctx context.Context, id int32) *process {
	p, err := w.cluster.start(ctx, id)
	if err != nil {
		panic(err) // the settings are wrong
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current[id] = p
	return p
}

// life returns the process of an id that was started last.
func (w *world) life(id int32) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current[id]
}

// restart starts a broker id, again where faults made its start fail.
func (w *world) restart(ctx context.Context, id int32) *process {
	limit := time.Now().Add(startLimit)
	for {
		p := w.start(ctx, id)
		if p.up() || ctx.Err() != nil {
			return p
		}
		late := time.Now().After(limit)
		if w.cluster.faults.isCalm() || late {
			w.report("start of %d: %v", id, p.err)
		}
		if late {
			w.cancel()
			return p
		}
		wait(ctx, time.Second)
	}
}

// calm ends all faults, waits until the processes that were replaced have ended, and lets every broker serve:
// of two processes with one id it may have been the newer one that gave up.
func (w *world) calm(ctx context.Context) {
	w.cluster.faults.settle()
	for _, p := range w.cluster.everybody() {
		if w.life(p.id) != p {
			<-p.ended
		}
	}
	wait(ctx, 10*time.Second) // who has heard of another process of its id knows by then whether it is gone
	for _, id := range w.ids {
		if p := w.life(id); (!p.up() || p.over()) && ctx.Err() == nil {
			w.restart(ctx, id)
		}
	}
}
