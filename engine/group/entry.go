package group

import (
	"context"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// entry drives one group. Its fields are under mu, which is never held across
// I/O; what a worker reads and writes meanwhile is told valid by life.
type entry struct {
	c  *Coordinator
	id string

	mu      sync.Mutex
	gone    bool   // no longer in the coordinator's map
	running bool   // a worker is at it
	life    int    // counts how often the group was dropped from memory
	group   *Group // nil: to be loaded
	slot    catalog.Slot
	item    catalog.GroupState
	// unsettled: a write failed, or was under way when the group was dropped, and may land later, so a load writes first.
	unsettled bool
	waiting   []Event // for the load

	version, saved int64 // of the state in memory; the one in the catalogue
	held           []held
	confirming     []Reply // that wait for a read
	confirmed      bool    // the last piece of work was such a read: a write goes before the next
	batch          batch   // offsets for the next write
	writing        bool    // one is under way
	writeAt        time.Time
	deleting       bool
	replies        map[Token]chan Reply
	last           Token
	timer          *time.Timer
	touched        time.Time
}

// held is an answer that waits for a version of the state.
type held struct {
	version int64
	reply   Reply
}

// batch is offsets that are written together, with the answers, and the looks at offsets, that wait for it.
type batch struct {
	set     map[kafka.TopicPartition]catalog.GroupOffset
	del     map[kafka.TopicPartition]bool
	pending map[int64]catalog.PendingOffsets
	replies []Reply
	looks   []view
}

func (b *batch) empty() bool { return len(b.replies) == 0 && len(b.del) == 0 && len(b.looks) == 0 }

// idle tells whether nothing is to be written: the looks waited for the batch before.
func (b *batch) idle() bool { return len(b.set)+len(b.del)+len(b.pending) == 0 }

// view is a look at the group, which changes nothing.
type view struct {
	token Token
	look  func(g *Group) (holds bool) // whatever of offsets is being written; it is called again otherwise
	when  When                        // Saved: it is answered when what was seen is durable
}

func (view) event() {}

func newEntry(c *Coordinator, id string) *entry {
	return &entry{c: c, id: id, replies: make(map[Token]chan Reply), touched: time.Now()}
}

// call hands an event to a group and waits for its answer. Code
// NOT_COORDINATOR: the slot is not owned here, or no more.
func (c *Coordinator) call(ctx context.Context, id string, event func(Token) Event) Reply {
	e, ok := c.enter(id)
	if !ok {
		return Reply{Code: kafka.NotCoordinator}
	}
	ch := make(chan Reply, 1)
	e.last++
	token := e.last
	e.replies[token] = ch
	e.handle(event(token))
	e.mu.Unlock()
	select {
	case r := <-ch:
		return r
	case <-ctx.Done(): // the client is gone: nobody reads the answer
		e.mu.Lock()
		delete(e.replies, token)
		e.mu.Unlock()
		return Reply{Code: kafka.CoordinatorNotAvailable}
	}
}

// view looks at a group when it is loaded.
func (c *Coordinator) view(ctx context.Context, id string, when When, look func(g *Group) (holds bool)) kafka.ErrorCode {
	return c.call(ctx, id, func(t Token) Event { return view{token: t, look: look, when: when} }).Code
}

// handle lets an event happen, now or when the group is loaded.
func (e *entry) handle(ev Event) {
	e.touched = time.Now()
	if e.group == nil {
		e.waiting = append(e.waiting, ev)
	} else {
		e.step(ev)
	}
	e.kick()
}

func (e *entry) step(ev Event) {
	if v, ok := ev.(view); ok {
		// What is being written was taken before: who saw the offset that it replaces would commit behind it, and take it back.
		if holds := v.look(e.group); v.when == Confirmed && !holds && (e.writing || !e.batch.empty()) {
			e.batch.looks = append(e.batch.looks, v)
			return
		}
		e.give(Reply{Token: v.token, When: v.when})
		return
	}
	cfg := e.c.o.Config()
	e.group.Limits = Limits{InitialDelay: cfg.GroupInitialRebalanceDelay, MaxSize: cfg.GroupMaxSize, Retention: cfg.OffsetsRetention}
	generation := e.group.generation
	out := e.group.Step(time.Now(), ev)
	if e.group.generation > generation {
		e.c.metrics.rebalances.Inc()
	}
	e.c.metrics.commits.Add(float64(len(out.Set)))
	if _, ok := ev.(Expire); ok {
		e.c.metrics.expirations.Add(float64(len(out.Del)))
	}
	if out.Save {
		e.version++
	}
	e.deleting = e.deleting || out.Delete
	for tp, o := range out.Set {
		if e.batch.set == nil {
			e.batch.set = make(map[kafka.TopicPartition]catalog.GroupOffset)
		}
		e.batch.set[tp] = o
		delete(e.batch.del, tp)
	}
	for _, tp := range out.Del {
		if e.batch.del == nil {
			e.batch.del = make(map[kafka.TopicPartition]bool)
		}
		e.batch.del[tp] = true
		delete(e.batch.set, tp)
	}
	for id, p := range out.Pending {
		if e.batch.pending == nil {
			e.batch.pending = make(map[int64]catalog.PendingOffsets)
		}
		e.batch.pending[id] = p
	}
	for _, r := range out.Replies {
		e.give(r)
	}
	if _, ok := ev.(Heartbeat); !ok { // a heartbeat only puts off
		e.arm()
	}
}

// give answers when what the answer reveals is durable.
func (e *entry) give(r Reply) {
	switch {
	case r.When == Written:
		e.batch.replies = append(e.batch.replies, r)
	case r.When == Confirmed:
		e.confirming = append(e.confirming, r)
	case r.When == Saved && e.saved < e.version, r.When == Deleted:
		e.held = append(e.held, held{e.version, r})
	default:
		e.answer(r)
	}
}

func (e *entry) answer(r Reply) {
	if ch, ok := e.replies[r.Token]; ok {
		delete(e.replies, r.Token)
		ch <- r // has room for one
	}
}

// arm sets the timer for what is due next.
func (e *entry) arm() {
	next := e.group.Next()
	if !e.batch.empty() && time.Now().Before(e.writeAt) && (next.IsZero() || e.writeAt.Before(next)) {
		next = e.writeAt
	}
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	if !next.IsZero() {
		e.timer = time.AfterFunc(time.Until(next), e.tick)
	}
}

func (e *entry) tick() {
	_, done, ok := e.c.begin()
	if !ok {
		return
	}
	defer done()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || e.group == nil {
		return
	}
	if slot, ok := e.c.o.Slot(e.id); !ok || !sameOwner(slot, e.slot) {
		e.lose()
		return
	}
	e.step(Tick{})
	e.kick()
}

// expire looks for expired offsets, unless offsets are being written: next time.
func (e *entry) expire() {
	if e.group == nil || e.writing || !e.batch.empty() {
		return
	}
	topics := e.c.o.Catalog.Topics()
	e.step(Expire{Name: func(id kafka.TopicID) (string, bool) {
		t, ok := topics.ByID(id)
		if !ok {
			return "", topics.Len() == 0 // no topic is known yet
		}
		return t.Name, true
	}})
	e.kick()
}

// drop forgets the group as it is in memory. Those who wait get code.
func (e *entry) drop(code kafka.ErrorCode) {
	for _, ch := range e.replies {
		ch <- Reply{Code: code}
	}
	clear(e.replies)
	if e.timer != nil {
		e.timer.Stop()
	}
	e.life++
	e.group, e.timer, e.waiting, e.held, e.confirming, e.batch = nil, nil, nil, nil, nil, batch{}
	e.version, e.saved, e.deleting, e.writing = 0, 0, false, false
}

// lose drops a group whose slot is not owned any more. What is being written may land when it is owned again.
func (e *entry) lose() {
	e.unsettled = e.unsettled || e.running
	e.drop(kafka.NotCoordinator)
}

// forget removes the entry from memory if nothing is under way in it.
func (e *entry) forget() {
	busy := e.running || e.unsettled || len(e.replies) > 0 || !e.batch.empty() || e.deleting
	if busy || e.version > e.saved {
		return
	}
	if e.group != nil && !e.group.Idle() && !(e.c.crowded() && e.group.Quiet()) {
		return
	}
	e.gone = true
	if e.timer != nil {
		e.timer.Stop()
	}
	e.c.mu.Lock()
	delete(e.c.entries, e.id)
	e.c.mu.Unlock()
}

// job is a piece of I/O: it runs without the lock and returns what to do with
// the outcome under it.
type job func(ctx context.Context) (apply func())

// next returns the entry's next I/O; nil: there is none now.
func (e *entry) next() job {
	switch {
	case e.group == nil:
		if len(e.waiting) == 0 {
			return nil
		}
		return e.load()
	case e.version > e.saved, !e.batch.empty() && len(e.item.Value) == 0: // offsets without a group would be nobody's
		return e.save()
	case len(e.confirming) > 0 && !e.confirmed:
		return e.confirm()
	case !e.batch.empty() && (e.deleting || e.batch.idle() || !time.Now().Before(e.writeAt)):
		return e.write()
	case e.deleting:
		return e.remove()
	case len(e.confirming) > 0:
		return e.confirm()
	}
	return nil
}

// kick starts a worker if there is something to do.
func (e *entry) kick() {
	if e.running {
		return
	}
	first := e.next()
	if first == nil {
		return
	}
	ctx, done, ok := e.c.begin()
	if !ok {
		e.drop(kafka.NotCoordinator)
		return
	}
	e.running = true
	life := e.life
	go func() {
		defer done()
		e.work(ctx, first, life)
	}()
}

func (e *entry) work(ctx context.Context, j job, life int) {
	for j != nil {
		apply := j(ctx)
		e.mu.Lock()
		if life == e.life { // else the group was dropped meanwhile
			apply()
		}
		life = e.life
		if j = e.next(); j == nil {
			e.running = false
			if e.group == nil || !e.group.created || e.c.crowded() {
				e.forget()
			}
		}
		e.mu.Unlock()
	}
}
