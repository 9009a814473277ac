package slot

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/recovery"
)

// Reconcile opens the logs of partitions that the catalogue's snapshot has
// and this session does not, closes those of deleted topics, and hands changed configs on.
func (m *Manager) Reconcile(context.Context) error {
	m.reconciling.Lock()
	defer m.reconciling.Unlock()
	change := m.o.Catalog.Applied()
	topics := m.o.Catalog.Topics()
	for _, t := range topics.All() {
		cfg := config.EffectiveTopic(m.o.Config(), t.Configs)
		var logs []*partition.Log
		m.mu.Lock()
		now := m.settingsOf(t, cfg)
		for p := range t.Partitions {
			tp := kafka.TopicPartition{Topic: t.ID, Partition: p}
			logs = m.openLog(logs, tp, t.Name, now, nil, 0)
		}
		m.set.Add(logs...)
		m.mu.Unlock()
	}
	for _, l := range m.set.All() {
		if _, ok := topics.ByID(l.TP().Topic); !ok {
			m.mu.Lock()
			delete(m.woken, l.Slot()) // another topic of that name may come to have as many records
			m.mu.Unlock()
			m.closeLog(l, kafka.UnknownTopicOrPartition)
		}
	}
	m.mu.Lock()
	maps.DeleteFunc(m.topics, func(id kafka.TopicID, _ *settings) bool {
		_, ok := topics.ByID(id)
		return !ok
	})
	m.mu.Unlock()
	m.applied.Store(change)
	return nil
}

// hold makes slots this session's, and opens the logs of all their partitions
// before anybody can see that they are held: so a checkpoint of a slot has all of it. With
// still, which is called with mu held, the slots are those of them that it returns, which were dormant.
// recovery.ErrInconsistent: what was left does not fit to the topics and log starts of today.
func (m *Manager) hold(slots []catalog.Slot, l left, still func([]catalog.Slot) []catalog.Slot) error {
	m.reconciling.Lock()
	defer m.reconciling.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if still != nil {
		slots = still(slots)
	}
	opened, topics := setOf(slots), m.o.Catalog.Topics()
	if err := m.fits(opened, topics, l); err != nil {
		return err
	}
	for _, s := range slots {
		m.slots[s.Slot], m.startsAt[s.Slot] = s, l.change
		delete(m.dormant, s.Slot)
		delete(m.woken, s.Slot)
		if len(s.Spans) > 1 {
			m.keeper.recovered.Store(true)
		}
	}
	var logs []*partition.Log
	for _, t := range topics.All() {
		var now *settings
		for p := range t.Partitions {
			if !opened[kafka.PartitionSlot(t.Name, p, m.o.View.Slots)] {
				continue
			}
			if now == nil {
				now = m.settingsOf(t, config.EffectiveTopic(m.o.Config(), t.Configs))
			}
			tp := kafka.TopicPartition{Topic: t.ID, Partition: p}
			if l.tails[tp] != nil && len(l.tails[tp].Hot) > 0 && still == nil { // what was dormant nobody else has sealed
				m.unsettled = append(m.unsettled, tp)
			}
			logs = m.openLog(logs, tp, t.Name, now, l.tails[tp], l.starts[tp])
		}
	}
	m.set.Add(logs...)
	if still == nil {
		m.wal.Hasten(hastyFor)
	} else {
		m.remember(slots, logs)
		for _, l := range logs {
			l.SeenByTimestamps()
			l.Ask() // who had it woken may still be on the way
		}
		m.sleeping.Store(int64(len(m.dormant)))
	}
	m.tell()
	return nil
}

// fits tells whether no partition of which nothing was left has a log start that is not 0, as one has that was made, and written
// to, by a session that has ended this one and taken the slot, where this one does not know yet.
func (m *Manager) fits(opened map[kafka.Slot]bool, topics *catalog.Topics, l left) error {
	for tp, start := range l.starts {
		t, ok := topics.ByID(tp.Topic)
		if ok && start > 0 && l.tails[tp] == nil && opened[kafka.PartitionSlot(t.Name, tp.Partition, m.o.View.Slots)] {
			return fmt.Errorf("recover %s: %w: the log starts at offset %d, and nothing was left of it", tp, recovery.ErrInconsistent, start)
		}
	}
	return nil
}

// unsettledTails returns the partitions whose recovered tails are to be settled, and forgets them.
func (m *Manager) unsettledTails() []kafka.TopicPartition {
	m.mu.Lock()
	defer m.mu.Unlock()
	todo := m.unsettled
	m.unsettled = nil
	return todo
}

// unsettle notes partitions again whose tails could not be settled.
func (m *Manager) unsettle(tps []kafka.TopicPartition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unsettled = append(m.unsettled, tps...)
}

// settings are a topic's configuration, as the open logs of its partitions see it.
type settings struct {
	current atomic.Pointer[config.Topic]
	read    func() config.Topic
}

// settingsOf returns a topic's settings, with cfg from now on. mu is held.
func (m *Manager) settingsOf(t *catalog.Topic, cfg config.Topic) *settings {
	s := m.topics[t.ID]
	if s == nil {
		s = new(settings)
		s.read = func() config.Topic { return *s.current.Load() }
		m.topics[t.ID] = s
	} else if *s.current.Load() != cfg {
		m.stir(t)
	}
	s.current.Store(&cfg)
	return s
}

// openLog opens a partition's log, if it is not open and its slot is held, with the tail that
// was recovered, if any, and appends it to logs, which the caller adds to the set. Dormant slots' logs stay closed. mu is held.
func (m *Manager) openLog(logs []*partition.Log, tp kafka.TopicPartition, topic string, cfg *settings, t *recovery.Tail, start kafka.Offset) []*partition.Log {
	if _, open := m.set.Peek(tp); open {
		return logs
	}
	slot := kafka.PartitionSlot(topic, tp.Partition, m.o.View.Slots)
	owned, held := m.slots[slot]
	if _, dormant := m.dormant[slot]; !held || dormant {
		return logs
	}
	if t == nil {
		t = &recovery.Tail{} // nothing was written
	}
	o := partition.Options{Shared: m.shared, TP: tp, Topic: topic, Slot: slot, Epoch: owned.Epoch, Config: cfg.read}
	return append(logs, partition.New(o, *t, start))
}

// closeLog ends a log; what waits for it fails with code.
func (m *Manager) closeLog(l *partition.Log, code kafka.ErrorCode) {
	m.set.Remove(l.TP())
	l.Close(code)
}

// follow reconciles at each change of the topics.
func (m *Manager) follow(ctx context.Context, stop <-chan struct{}) error {
	for {
		changed := m.o.Catalog.Changed()
		if err := m.Reconcile(ctx); err != nil {
			return err
		}
		m.look()
		select {
		case <-changed:
		case <-stop:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
