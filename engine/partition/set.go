package partition

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/varvelog/varve/internal/kafka"
)

// Set holds the logs that a session has open. Reading takes no lock; writing
// copies the map, so many are better added at once.
type Set struct {
	logs atomic.Pointer[map[kafka.TopicPartition]*Log]
	mu   sync.Mutex // held by writers
}

// NewSet returns an empty set.
func NewSet() *Set { return &Set{} }

// Get returns a partition's log.
func (s *Set) Get(tp kafka.TopicPartition) (*Log, bool) {
	l, ok := s.load()[tp]
	return l, ok
}

// All returns all logs, in no order.
func (s *Set) All() []*Log {
	return slices.Collect(maps.Values(s.load()))
}

// Len returns the number of logs.
func (s *Set) Len() int { return len(s.load()) }

// Add adds logs, in the place of those of the same partitions.
func (s *Set) Add(logs ...*Log) {
	s.change(func(m map[kafka.TopicPartition]*Log) {
		for _, l := range logs {
			m[l.o.TP] = l
		}
	})
}

// Remove takes partitions' logs out and returns them; closing them is the
// caller's.
func (s *Set) Remove(tps ...kafka.TopicPartition) (removed []*Log) {
	s.change(func(m map[kafka.TopicPartition]*Log) {
		for _, tp := range tps {
			if l, ok := m[tp]; ok {
				removed = append(removed, l)
				delete(m, tp)
			}
		}
	})
	return removed
}

func (s *Set) load() map[kafka.TopicPartition]*Log {
	if m := s.logs.Load(); m != nil {
		return *m
	}
	return nil
}

func (s *Set) change(fn func(m map[kafka.TopicPartition]*Log)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[kafka.TopicPartition]*Log, len(s.load())+1)
	maps.Copy(m, s.load())
	fn(m)
	s.logs.Store(&m)
}
