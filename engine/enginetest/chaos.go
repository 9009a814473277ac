package enginetest

import (
	"context"
	"time"
)

// startLimit is how long a broker may try to start, whatever the faults.
const startLimit = 3 * time.Minute

// restart starts a broker id anew, again where faults made its start fail.
func (w *world) restart(ctx context.Context, id int32) *process {
	limit := time.Now().Add(startLimit)
	if w.lost {
		limit = time.Now()
	}
	for {
		p, err := w.cluster.start(ctx, id)
		if err != nil {
			panic(err) // the settings are wrong
		}
		w.current[id] = p
		if p.up() {
			return p
		}
		if w.cluster.faults.isCalm() || time.Now().After(limit) {
			w.report("start of %d: %v", id, p.err)
		}
		if time.Now().After(limit) {
			w.lost = true
			return p
		}
		wait(ctx, time.Second)
	}
}

// strike does one harm to one broker and repairs it.
func (w *world) strike(ctx context.Context) {
	d := w.dice
	id := w.ids[d.below("chaos", len(w.ids))]
	p := w.current[id]
	switch d.below("chaos", 8) {
	case 0:
		_ = p.stop() // what it could not do under faults, the next start does
	case 1, 2:
		p.kill()
	case 3, 4:
		w.zombie(ctx, p)
	case 5: // two processes with one id
		twin, err := w.cluster.start(ctx, id)
		if err != nil {
			panic(err)
		}
		wait(ctx, d.upTo("chaos", 3*time.Second))
		p.kill()
		w.current[id] = twin
		return
	case 6:
		cut := w.cluster.network.between("clients", p.host)
		cut.close()
		wait(ctx, d.upTo("chaos", 10*time.Second))
		cut.open()
		return
	case 7:
		w.cluster.faults.outage(d.upTo("chaos", 5*time.Second))
		return
	}
	wait(ctx, d.upTo("chaos", 500*time.Millisecond))
	w.restart(ctx, id)
}

// zombie pauses a process, as somebody starts another in its place, and lets it
// go on when that has taken over, or earlier, or long after: with all that it had
// under way, its connections included. Some time later it is killed.
func (w *world) zombie(ctx context.Context, p *process) {
	p.pause()
	asleep := 500*time.Millisecond + w.dice.upTo("chaos", 5*time.Second)
	if w.dice.oneIn("chaos", 3) {
		asleep += w.dice.upTo("chaos", 90*time.Second)
	}
	alive := 200*time.Millisecond + w.dice.upTo("chaos", 3*time.Second)
	go func() {
		wait(ctx, asleep)
		p.resume()
		wait(ctx, alive)
		p.kill()
	}()
}

// calm ends all faults, lets every broker serve and ends all other processes.
func (w *world) calm(ctx context.Context) {
	w.cluster.faults.settle()
	for _, p := range w.cluster.everybody() {
		if w.current[p.id] == p {
			continue
		}
		<-p.ended
	}
	for _, id := range w.ids {
		if !w.current[id].up() {
			w.restart(ctx, id)
		}
	}
}
