package slot

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Of many partitions most are not asked for at a time. A slot becomes dormant when nobody has asked for any of its
// partitions in log.dormant.ms: what its logs know is in one checkpoint, which it names alone, and none of it in memory.
// Who asks first waits until that is read.
//
//	awake    ── lull: checkpoint of the idle slots alone; stop; all is as in it; close ──▶ dormant
//	dormant  ── Wake: somebody asks, or a hot tail is to be rolled; read, open ──────────▶ awake
//
// A dormant slot is held like any other: it is renewed in checkpoints, which leave out what it has, handed over, and taken
// when its owner has gone. Only the keeper makes slots dormant, so none is while a checkpoint is written.
const (
	lullBytes   = 64 << 20 // of hot slices that one checkpoint of idle slots gathers
	wakeTimeout = 2 * time.Second
	wakePause   = 100 * time.Millisecond // before what could not be read is read again
)

// dormancy is what is in memory of a dormant slot.
type dormancy struct {
	rollAt time.Time // when a hot tail is due to be rolled; zero: there is none
	hot    int64     // bytes of the tails
}

// content is what a checkpoint that a slot names alone has of it.
type content struct {
	key    string
	next   kafka.Offset // sum of the logs' next offsets
	sealed kafka.Offset // and of what of them is sealed
}

// idle are logs of a slot that nobody asks for.
type idle struct {
	dormancy
	slot catalog.Slot
	next map[kafka.TopicPartition]kafka.Offset
	has  content // key: none
}

// notice notes which slots are asked for, as the logs of all tell.
func (k *keeper) notice(logs []*partition.Log, now time.Time) {
	asked := make(map[kafka.Slot]bool)
	for _, l := range logs {
		if l.TakeAsked() {
			asked[l.Slot()] = true
		}
	}
	seen := make(map[kafka.Slot]time.Time)
	for _, s := range k.m.Owned() {
		at, ok := k.askedAt[s.Slot]
		if !ok || asked[s.Slot] || k.m.Dormant(s.Slot) {
			at = now
		}
		seen[s.Slot] = at
	}
	k.askedAt = seen
}

// lull makes slots dormant that nobody has asked for in log.dormant.ms, but for one with more than lullBytes that are not sealed, and
// wakes those that have something to be rolled.
func (k *keeper) lull(ctx context.Context, logs []*partition.Log, now time.Time) error {
	k.m.want(k.m.rollable(now)...)
	limit := k.m.o.Config().LogDormant
	if now.Sub(k.lulled) < limit/4 || k.haste() { // together they need one checkpoint, not one each
		return nil
	}
	k.lulled = now
	all := k.idle(logs, now.Add(-limit))
	if err := k.settleTails(ctx); err != nil { // nobody does when they wake
		return err
	}
	var todo []catalog.Slot
	for _, i := range all {
		if !k.m.kept(i) {
			todo = append(todo, i.slot)
		}
	}
	if len(todo) > 0 {
		if err := k.commit(ctx, todo, k.m.wal.Position(), true); err != nil {
			return fmt.Errorf("lull: %w", err)
		}
	}
	k.m.sleep(all)
	if len(todo) > 0 {
		return k.sweep(ctx, todo)
	}
	return nil
}

// idle returns the slots that nobody has asked for since a time, all of whose records are durable: some, if their tails are long.
func (k *keeper) idle(logs []*partition.Log, since time.Time) []*idle {
	found := make(map[kafka.Slot]*idle)
	for _, s := range k.m.Owned() {
		if at := k.askedAt[s.Slot]; !at.IsZero() && !at.After(since) && !k.m.Dormant(s.Slot) {
			found[s.Slot] = &idle{slot: s, next: make(map[kafka.TopicPartition]kafka.Offset)}
		}
	}
	check, expired := k.m.o.Config().RetentionCheckInterval, time.Now().Add(-k.m.o.Config().ProducerIDExpiration)
	for _, l := range logs {
		i := found[l.Slot()]
		if i == nil {
			continue
		}
		o := l.Offsets()
		if o.Next != o.HighWatermark {
			delete(found, l.Slot())
			continue
		}
		l.ExpireProducers(expired) // it may never be awake when all are looked at
		i.next[l.TP()] = o.Next
		i.has.next, i.has.sealed = i.has.next+o.Next, i.has.sealed+l.SealedEnd()
		i.hot += l.HotBytes()
		if at, ok := l.RollAt(check); ok && (i.rollAt.IsZero() || at.Before(i.rollAt)) {
			i.rollAt = at
		}
	}
	var some []*idle
	var hot int64
	for _, i := range found {
		if hot+i.hot <= lullBytes {
			hot += i.hot
			some = append(some, i)
		}
	}
	slices.SortFunc(some, func(a, b *idle) int { return int(a.slot.Slot - b.slot.Slot) })
	return some
}

// kept tells whether what an idle slot's logs know is in the checkpoint that the slot names: that it was woken from, or it has nothing.
func (m *Manager) kept(i *idle) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[i.slot.Slot]
	if len(s.Spans) != 1 || s.Spans[0].Session != m.session.ID {
		return false
	}
	has := i.has
	switch len(s.Checkpoints) {
	case 0:
		return has.next == 0
	case 1:
		has.key = s.Checkpoints[0].Key
		return m.woken[s.Slot] == has
	}
	return false
}

// sleep closes the logs of idle slots that are as they were found, and nobody has asked for since.
func (m *Manager) sleep(all []*idle) {
	m.reconciling.Lock()
	defer m.reconciling.Unlock()
	open := make(map[kafka.Slot][]*partition.Log)
	for _, i := range all {
		open[i.slot.Slot] = nil
	}
	for _, l := range m.set.All() {
		if _, ok := open[l.Slot()]; ok {
			open[l.Slot()] = append(open[l.Slot()], l)
		}
	}
	var closed []kafka.TopicPartition
	n := 0
	for _, i := range all {
		logs := open[i.slot.Slot]
		for _, l := range logs {
			l.Stop(kafka.NotLeaderOrFollower)
		}
		if !i.still(logs) {
			for _, l := range logs {
				l.Resume()
			}
			continue
		}
		m.mu.Lock()
		m.dormant[i.slot.Slot] = i.dormancy
		m.sleeping.Store(int64(len(m.dormant)))
		m.mu.Unlock()
		for _, l := range logs {
			closed = append(closed, l.TP())
		}
		n++
	}
	for _, l := range m.set.Remove(closed...) {
		l.Close(kafka.NotLeaderOrFollower)
	}
	if n > 0 {
		m.lulls.Add(int64(n))
		m.o.Logger.Debug("slots become dormant", "slots", n)
	}
}

// still tells whether logs, which are stopped, are those of a slot as it was found idle.
func (i *idle) still(logs []*partition.Log) bool {
	for _, l := range logs {
		o := l.Offsets()
		next, known := i.next[l.TP()]
		if !known && o.Next > 0 || o.Next != next || l.Asked() {
			return false
		}
	}
	return true
}

// Dormant tells whether a slot is dormant here. Its logs' starts are read when it wakes.
func (m *Manager) Dormant(s kafka.Slot) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.dormant[s]
	return ok
}

// awake returns those of the slots that are not dormant.
func (m *Manager) awake(slots []catalog.Slot) (some []catalog.Slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slots {
		if _, dormant := m.dormant[s.Slot]; !dormant {
			some = append(some, s)
		}
	}
	return some
}

// dormantBytes returns the bytes of the tails of dormant slots.
func (m *Manager) dormantBytes() (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dormant {
		n += d.hot
	}
	return n
}

// rollable returns the dormant slots with a tail that is due to be rolled.
func (m *Manager) rollable(now time.Time) (due []kafka.Slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s, d := range m.dormant {
		if !d.rollAt.IsZero() && !now.Before(d.rollAt) {
			due = append(due, s)
		}
	}
	return due
}

// stir has the tails of a topic's dormant slots looked at: what rolls them has changed. mu is held.
func (m *Manager) stir(t *catalog.Topic) {
	for p := range t.Partitions {
		s := kafka.PartitionSlot(t.Name, p, m.o.View.Slots)
		if d, ok := m.dormant[s]; ok && d.hot > 0 {
			d.rollAt = time.Now()
			m.dormant[s] = d
		}
	}
}

// Wake waits until those of the slots that are dormant here are awake, two seconds at most, and not at all for the two seconds
// behind one that has waited in vain. They are not looked at where none is dormant.
func (m *Manager) Wake(ctx context.Context, which iter.Seq[kafka.Slot]) {
	if m.sleeping.Load() == 0 {
		return
	}
	slots := slices.Collect(which)
	some, moved := m.want(slots...)
	if !some || time.Since(time.Unix(0, m.gaveUp.Load())) < wakeTimeout {
		return
	}
	late := time.NewTimer(wakeTimeout)
	defer late.Stop()
	for some {
		select {
		case <-moved:
		case <-late.C:
			m.gaveUp.Store(time.Now().UnixNano())
			return
		case <-m.done:
			return
		case <-ctx.Done():
			return
		}
		some, moved = m.want(slots...)
	}
}

// want has those of the slots woken that are dormant, and tells whether any is, and when to look again.
func (m *Manager) want(slots ...kafka.Slot) (some bool, moved <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slots {
		_, dormant := m.dormant[s]
		if _, held := m.slots[s]; held && dormant {
			m.wanted[s], some = true, true
		}
	}
	if some {
		select {
		case m.wakes <- struct{}{}:
		default:
		}
	}
	return some, m.moved
}

// wake wakes slots that are wanted, those that are wanted at a time together, until ctx ends or stop is closed.
func (m *Manager) wake(ctx context.Context, stop <-chan struct{}) error {
	for {
		select {
		case <-m.wakes:
		case <-stop:
			return nil
		case <-ctx.Done():
			return nil
		}
		slots, err := m.rouse(ctx, m.takeWanted())
		if err == nil || ctx.Err() != nil {
			continue
		}
		m.o.Logger.Warn("wake slots", "slots", len(slots), "first", slots[0].Slot, "err", err)
		select {
		case <-time.After(wakePause):
		case <-ctx.Done():
		}
		m.want(numbers(slots)...)
	}
}

// takeWanted returns the dormant slots that are wanted, and forgets that they are.
func (m *Manager) takeWanted() (slots []catalog.Slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.wanted {
		if s, held := m.slots[n]; held {
			slots = append(slots, s)
		}
	}
	clear(m.wanted)
	return slots
}

// rouse opens the logs of dormant slots again, by the checkpoints that they name, and returns those for which that failed. One
// that can't be read keeps no other asleep.
func (m *Manager) rouse(ctx context.Context, slots []catalog.Slot) (left []catalog.Slot, err error) {
	if len(slots) == 0 {
		return nil, nil
	}
	if err = m.restore(ctx, slots); err == nil {
		return nil, nil
	}
	if len(slots) == 1 || !forGood(err) {
		return slots, err
	}
	half := len(slots) / 2
	left, err = m.rouse(ctx, slots[:half])
	more, merr := m.rouse(ctx, slots[half:])
	return append(left, more...), cmp.Or(err, merr)
}

// restore is rouse of all the slots, or none.
func (m *Manager) restore(ctx context.Context, slots []catalog.Slot) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := m.readLeft(ctx, slots, nil)
	if err != nil {
		return err
	}
	return m.install(ctx, slots, l, m.stillDormant)
}

// stillDormant returns those of the slots that are dormant still, and name what they named, as they are now. mu is held.
func (m *Manager) stillDormant(slots []catalog.Slot) (now []catalog.Slot) {
	for _, s := range slots {
		_, dormant := m.dormant[s.Slot]
		if mine, held := m.slots[s.Slot]; held && dormant && slices.Equal(mine.Checkpoints, s.Checkpoints) {
			now = append(now, mine)
		}
	}
	return now
}

// remember notes what slots have been woken from. mu is held.
func (m *Manager) remember(slots []catalog.Slot, logs []*partition.Log) {
	for _, s := range slots {
		if len(s.Checkpoints) == 1 {
			m.woken[s.Slot] = content{key: s.Checkpoints[0].Key}
		}
	}
	for _, l := range logs {
		if c, ok := m.woken[l.Slot()]; ok {
			c.next, c.sealed = c.next+l.Offsets().HighWatermark, c.sealed+l.SealedEnd()
			m.woken[l.Slot()] = c
		}
	}
}
