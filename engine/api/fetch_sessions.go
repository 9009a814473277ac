package api

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
)

const (
	// evictAfter is how long a session must be idle before a new one may take
	// its place in a full cache (Kafka's min.incremental.fetch.session.eviction.ms).
	evictAfter = 2 * time.Minute
	// maxSessionParts bounds the partitions of one session.
	maxSessionParts = 100_000
)

// fetchSessions is the cache of incremental fetch sessions (KIP-227). A
// session remembers what a client fetches and what it was told last:
//
//	id, epoch   0, -1  no session        0, 0  a new one, if there is room
//	            n, -1  n ends            n, 0  n ends, a new one
//	            n, e   the changes since e-1 come in, what changed goes out
type fetchSessions struct {
	slots int

	mu  sync.Mutex
	all map[int32]*fetchSession
}

// fetchSession is one session. Its id is written once, before anyone else
// knows it, used is under fetchSessions.mu and the rest under mu.
type fetchSession struct {
	id   int32
	used time.Time

	mu    sync.Mutex
	ids   bool  // topics are named by id
	epoch int32 // of the next request
	parts map[fetchKey]*sessionPart
	order []*sessionPart
	first int // of order, in the next response
}

// sessionPart is a partition of a session, and what the client was told last.
type sessionPart struct {
	key          fetchKey
	from         kafka.Offset
	max          int32
	epoch        int32
	hw, logStart kafka.Offset
}

// sessionUse is a session as one fetch uses it. The zero value is no session.
type sessionUse struct {
	s           *fetchSession
	epoch       int32 // the session's while this fetch is the last one
	incremental bool
}

func newFetchSessions(slots int) *fetchSessions {
	return &fetchSessions{slots: slots, all: make(map[int32]*fetchSession)}
}

// begin returns the partitions that a fetch is about, and its session.
func (c *fetchSessions) begin(req *kmsg.FetchRequest) (sessionUse, []fetchPart, kafka.ErrorCode) {
	if req.Version < 7 {
		return sessionUse{}, partsOf(req), kafka.None
	}
	if req.SessionEpoch <= 0 {
		if req.SessionID != 0 {
			c.remove(req.SessionID)
		}
		if req.SessionEpoch == 0 {
			return c.create(req)
		}
		return sessionUse{}, partsOf(req), kafka.None
	}
	s := c.use(req.SessionID)
	if s == nil {
		return sessionUse{}, nil, kafka.FetchSessionIDNotFound
	}
	use, parts, code := s.next(req)
	if code == kafka.FetchSessionIDNotFound {
		c.remove(req.SessionID)
	}
	return use, parts, code
}

// next takes in an incremental request.
func (s *fetchSession) next(req *kmsg.FetchRequest) (sessionUse, []fetchPart, kafka.ErrorCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ids != (req.Version >= 13):
		return sessionUse{}, nil, kafka.FetchSessionTopicIDError
	case s.epoch != req.SessionEpoch:
		return sessionUse{}, nil, kafka.InvalidFetchSessionEpoch
	}
	if s.epoch++; s.epoch < 0 {
		s.epoch = 1
	}
	s.change(req)
	if len(s.order) > maxSessionParts {
		return sessionUse{}, nil, kafka.FetchSessionIDNotFound // it begins a new one
	}
	return sessionUse{s, s.epoch, true}, s.fetchParts(), kafka.None
}

func partsOf(req *kmsg.FetchRequest) []fetchPart {
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	parts := make([]fetchPart, 0, n)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			parts = append(parts, fetchPart{
				key:  fetchKey{t.Topic, t.TopicID, p.Partition},
				from: kafka.Offset(p.FetchOffset), max: p.PartitionMaxBytes, epoch: p.CurrentLeaderEpoch,
			})
		}
	}
	return parts
}

// create makes a session where there is room, else the fetch goes without.
func (c *fetchSessions) create(req *kmsg.FetchRequest) (sessionUse, []fetchPart, kafka.ErrorCode) {
	parts := partsOf(req)
	if len(parts) == 0 || len(parts) > maxSessionParts {
		return sessionUse{}, parts, kafka.None
	}
	s := &fetchSession{epoch: 1, ids: req.Version >= 13, parts: make(map[fetchKey]*sessionPart, len(parts))}
	for i := range parts {
		parts[i].session = s.put(parts[i])
	}
	if !c.add(s) {
		return sessionUse{}, parts, kafka.None
	}
	return sessionUse{s, 1, false}, parts, kafka.None
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

// evict removes the session that was idle longest, if for long enough. mu is held.
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

func (c *fetchSessions) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

func (s *fetchSession) put(p fetchPart) *sessionPart {
	sp := s.parts[p.key]
	if sp == nil {
		p.key.name = strings.Clone(p.key.name) // it refers to the request's frame
		sp = &sessionPart{key: p.key, hw: -1, logStart: -1}
		s.parts[p.key] = sp
		s.order = append(s.order, sp)
	}
	sp.from, sp.max, sp.epoch = p.from, p.max, p.epoch
	return sp
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
	if gone {
		s.order = slices.DeleteFunc(s.order, func(sp *sessionPart) bool { return s.parts[sp.key] != sp })
	}
}

// fetchParts lists the session's partitions, beginning with another one each
// time, so that none starves behind one that fills the response.
func (s *fetchSession) fetchParts() []fetchPart {
	parts := make([]fetchPart, 0, len(s.order))
	s.first++
	if s.first >= len(s.order) {
		s.first = 0
	}
	for _, half := range [2][]*sessionPart{s.order[s.first:], s.order[:s.first]} {
		for _, sp := range half {
			parts = append(parts, fetchPart{key: sp.key, from: sp.from, max: sp.max, epoch: sp.epoch, session: sp})
		}
	}
	return parts
}

// id returns the id that the client is told, 0 without a session.
func (u sessionUse) id() int32 {
	if u.s == nil {
		return 0
	}
	return u.s.id
}

// finish takes in what a fetch found; tell says which rows the client is told,
// nil: all. It fails when another fetch has overtaken this one.
func (u sessionUse) finish(parts []fetchPart, rows []wire.FetchPartition) (tell []bool, code kafka.ErrorCode) {
	if u.s == nil {
		return nil, kafka.None
	}
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.s.epoch != u.epoch {
		return nil, kafka.InvalidFetchSessionEpoch
	}
	if u.incremental {
		tell = make([]bool, len(parts))
	}
	for i := range parts {
		changed := parts[i].session.update(&rows[i])
		if tell != nil {
			tell[i] = changed
		}
	}
	return tell, kafka.None
}

// update takes in a row; it tells whether the client must be told.
func (p *sessionPart) update(row *wire.FetchPartition) bool {
	changed := len(row.Records) > 0 || row.Err != kafka.None || row.PreferredReadReplica >= 0 || p.hw != row.HighWatermark || p.logStart != row.LogStartOffset
	p.hw, p.logStart = row.HighWatermark, row.LogStartOffset // -1 with an error, so that the next good answer is told
	return changed
}
