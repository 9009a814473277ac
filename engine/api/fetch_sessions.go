package api

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// evictAfter is how long a session must be idle before a new one may take its
// place in a full cache (min.incremental.fetch.session.eviction.ms of Kafka).
const evictAfter = 2 * time.Minute

// fetchSessions is the cache of incremental fetch sessions (KIP-227).
type fetchSessions struct {
	slots int

	mu  sync.Mutex
	all map[int32]*fetchSession
}

// fetchSession remembers what a client fetches. mu is held by the one fetch
// that uses it; everything but id and used is under it.
type fetchSession struct {
	id          int32
	mu          sync.Mutex
	epoch       int32 // the next one
	parts       map[fetchKey]*sessionPart
	order       []*sessionPart
	incremental bool      // the fetch under way is
	used        time.Time // under fetchSessions.mu
}

// sessionPart is a partition of a session, and what the client was told last.
type sessionPart struct {
	key      fetchKey
	from     kafka.Offset
	max      int32
	epoch    int32
	hw, lso  kafka.Offset
	logStart kafka.Offset
	failed   bool
}

func newFetchSessions(slots int) *fetchSessions {
	return &fetchSessions{slots: slots, all: make(map[int32]*fetchSession)}
}

// update takes in a row; it tells whether the client must be told.
func (p *sessionPart) update(row *wire.FetchPartition) bool {
	changed := len(row.Records) > 0 || row.Err != kafka.None || p.hw != row.HighWatermark || p.lso != row.LastStableOffset || p.logStart != row.LogStartOffset
	p.hw, p.lso, p.logStart, p.failed = row.HighWatermark, row.LastStableOffset, row.LogStartOffset, row.Err != kafka.None
	if p.failed {
		p.hw = -1 // the next good answer is told for sure
	}
	return changed
}

// begin returns the partitions that a fetch is about and its session, locked;
// nil for a fetch without one.
func (c *fetchSessions) begin(req *kmsg.FetchRequest) (*fetchSession, []fetchPart, kafka.ErrorCode) {
	switch {
	case req.Version < 7 || req.SessionEpoch == -1:
		if req.Version >= 7 && req.SessionID != 0 {
			c.remove(req.SessionID)
		}
		return nil, partsOf(req), kafka.None
	case req.SessionEpoch == 0:
		if req.SessionID != 0 {
			c.remove(req.SessionID)
		}
		return c.create(req)
	}
	s := c.use(req.SessionID)
	if s == nil {
		return nil, nil, kafka.FetchSessionIDNotFound
	}
	s.mu.Lock()
	if s.epoch != req.SessionEpoch {
		s.mu.Unlock()
		return nil, nil, kafka.InvalidFetchSessionEpoch
	}
	s.epoch = nextEpoch(s.epoch)
	s.incremental = true
	s.change(req)
	return s, s.fetchParts(), kafka.None
}

func nextEpoch(e int32) int32 {
	if e == math.MaxInt32 {
		return 1
	}
	return e + 1
}

func partsOf(req *kmsg.FetchRequest) []fetchPart {
	var parts []fetchPart
	for i := range req.Topics {
		t := &req.Topics[i]
		for _, p := range t.Partitions {
			parts = append(parts, fetchPart{
				key:  fetchKey{t.Topic, t.TopicID, p.Partition},
				from: kafka.Offset(p.FetchOffset), max: p.PartitionMaxBytes, epoch: p.CurrentLeaderEpoch,
			})
		}
	}
	return parts
}

// create makes a session where there is room, else the fetch goes without.
func (c *fetchSessions) create(req *kmsg.FetchRequest) (*fetchSession, []fetchPart, kafka.ErrorCode) {
	parts := partsOf(req)
	s := &fetchSession{epoch: 1, parts: make(map[fetchKey]*sessionPart, len(parts))}
	s.mu.Lock()
	for i := range parts {
		s.put(parts[i])
	}
	if len(parts) == 0 || !c.add(s) {
		return nil, parts, kafka.None
	}
	return s, s.fetchParts(), kafka.None
}

func (c *fetchSessions) add(s *fetchSession) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.all) >= c.slots && !c.evict(now) {
		return false
	}
	for s.id == 0 || c.all[s.id] != nil {
		s.id = 1 + rand.Int32N(math.MaxInt32-1)
	}
	s.used = now
	c.all[s.id] = s
	return true
}

// evict removes the session that was idle longest, if for long enough. It is
// called with mu held.
func (c *fetchSessions) evict(now time.Time) bool {
	var oldest *fetchSession
	for _, s := range c.all {
		if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
	}
	if oldest == nil || now.Sub(oldest.used) < evictAfter {
		return false
	}
	delete(c.all, oldest.id)
	return true
}

func (c *fetchSessions) use(id int32) *fetchSession {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.all[id]
	if s != nil {
		s.used = time.Now()
	}
	return s
}

func (c *fetchSessions) remove(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, id)
}

func (s *fetchSession) put(p fetchPart) {
	sp := s.parts[p.key]
	if sp == nil {
		sp = &sessionPart{key: p.key, hw: -1, lso: -1, logStart: -1}
		s.parts[p.key] = sp
		s.order = append(s.order, sp)
	}
	sp.from, sp.max, sp.epoch = p.from, p.max, p.epoch
}

// change takes in what an incremental request adds, changes and forgets.
func (s *fetchSession) change(req *kmsg.FetchRequest) {
	for _, p := range partsOf(req) {
		s.put(p)
	}
	gone := false
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			delete(s.parts, fetchKey{t.Topic, t.TopicID, p})
			gone = true
		}
	}
	if !gone {
		return
	}
	kept := s.order[:0]
	for _, sp := range s.order {
		if s.parts[sp.key] == sp {
			kept = append(kept, sp)
		}
	}
	clear(s.order[len(kept):])
	s.order = kept
}

// fetchParts lists the session's partitions, beginning with another one each
// time, so that none starves behind one that fills the response.
func (s *fetchSession) fetchParts() []fetchPart {
	parts := make([]fetchPart, 0, len(s.order))
	if len(s.order) > 1 && s.incremental {
		first := s.order[0]
		copy(s.order, s.order[1:])
		s.order[len(s.order)-1] = first
	}
	for _, sp := range s.order {
		parts = append(parts, fetchPart{key: sp.key, from: sp.from, max: sp.max, epoch: sp.epoch, session: sp})
	}
	return parts
}
