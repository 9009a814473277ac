package partition

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/varvelog/varve/internal/kafka"
)

// Set holds the logs that a session has open. Reading takes no lock: a writer
// replaces one of its maps by a changed copy.
type Set struct {
	mu     sync.Mutex // held by writers
	shards [256]atomic.Pointer[shard]
}

// shard is immutable.
type shard map[kafka.TopicPartition]*Log

// NewSet returns an empty set.
func NewSet() *Set { return &Set{} }

// Get returns the log of a partition that somebody has asked for.
func (s *Set) Get(tp kafka.TopicPartition) (*Log, bool) {
	l, ok := s.Peek(tp)
	if ok {
		l.Ask()
	}
	return l, ok
}

// Peek returns a partition's log, and does not count as being asked for it.
func (s *Set) Peek(tp kafka.TopicPartition) (*Log, bool) {
	m := s.shards[shardOf(tp)].Load()
	if m == nil {
		return nil, false
	}
	l, ok := (*m)[tp]
	return l, ok
}

// All returns all logs, in no order.
func (s *Set) All() []*Log {
	var all []*Log
	for i := range s.shards {
		if m := s.shards[i].Load(); m != nil {
			all = slices.AppendSeq(all, maps.Values(*m))
		}
	}
	return all
}

// Len returns the number of logs.
func (s *Set) Len() (n int) {
	for i := range s.shards {
		if m := s.shards[i].Load(); m != nil {
			n += len(*m)
		}
	}
	return n
}

// Add adds logs, in the place of those of the same partitions. Many at once cost
// a copy of each map.
func (s *Set) Add(logs ...*Log) {
	by := make(map[byte][]*Log)
	for _, l := range logs {
		i := shardOf(l.o.TP)
		by[i] = append(by[i], l)
	}
	for i, logs := range by {
		s.change(i, func(m shard) {
			for _, l := range logs {
				m[l.o.TP] = l
			}
		})
	}
}

// Remove takes partitions' logs out and returns them; closing them is the
// caller's. Many at once cost a copy of each map.
func (s *Set) Remove(tps ...kafka.TopicPartition) (removed []*Log) {
	by := make(map[byte][]kafka.TopicPartition)
	for _, tp := range tps {
		i := shardOf(tp)
		by[i] = append(by[i], tp)
	}
	for i, tps := range by {
		s.change(i, func(m shard) {
			for _, tp := range tps {
				if l, ok := m[tp]; ok {
					removed = append(removed, l)
					delete(m, tp)
				}
			}
		})
	}
	return removed
}

func (s *Set) change(i byte, fn func(m shard)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.shards[i]
	m := make(shard)
	if old := p.Load(); old != nil {
		maps.Copy(m, *old)
	}
	fn(m)
	if len(m) == 0 { // whose room would stay
		p.Store(nil)
		return
	}
	p.Store(&m)
}

func shardOf(tp kafka.TopicPartition) byte {
	return tp.Topic[0] ^ tp.Topic[len(tp.Topic)-1] + byte(tp.Partition)
}
