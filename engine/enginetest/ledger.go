package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/wal"
)

// ledger holds both stores and looks at every write at the moment at which it
// lands, in the order in which they do: whether its writer may make it, and whether what
// the catalogue then says can be true.
type ledger struct {
	objects *memstore.Store
	items   *memmeta.Store
	broken  rule
	alarm   func() // called at a broken invariant; nil: nobody waits for it

	mu       sync.Mutex
	bad      []string
	count    map[string]int // of what happened, to see that a workload covers it
	slots    map[int64]ownership
	sessions map[catalog.SessionID]life
	sealed   map[catalog.SessionID]int64 // where the seals are recorded, of forgotten sessions too
	logs     map[string]map[int64]entry  // topic id/partition → segments by base offset
	starts   map[string]int64            // topic id/partition → log start
	deleted  map[string]bool             // ids of deleted topics
	refs     map[string]int              // object key → entries and checkpoints that name it
	landed   map[catalog.SessionID]int64 // the end of each session's WAL so far
	whole    map[catalog.SessionID]*landing
	durable  map[kafka.TopicPartition]kafka.Offset // up to where no seal can cut anything off any more

	sent  map[string][]byte                      // with followerAhead: the WAL's objects as they were sent
	early map[kafka.TopicID]map[place]bundle.Ref // and what begins where in them
}

// ownership is a slot's item.
type ownership struct {
	epoch       int64
	owner       catalog.SessionID
	spans       []catalog.Span
	needs       []int64 // of each span: from where on
	checkpoints []catalog.CheckpointRef
	writer      *process
}

// life is a session's item.
type life struct {
	state          catalog.SessionState
	sealedAt, trim int64
	process        *process
}

// entry is a segment's item.
type entry struct {
	end int64
	key string
}

func newLedger() *ledger {
	return &ledger{
		objects: memstore.New(), items: memmeta.New(), count: make(map[string]int), slots: make(map[int64]ownership), sessions: make(map[catalog.SessionID]life), sealed: make(map[catalog.SessionID]int64),
		logs: make(map[string]map[int64]entry), starts: make(map[string]int64), deleted: make(map[string]bool), refs: make(map[string]int),
		landed: make(map[catalog.SessionID]int64), whole: make(map[catalog.SessionID]*landing), durable: make(map[kafka.TopicPartition]kafka.Offset),
		sent: make(map[string][]byte), early: make(map[kafka.TopicID]map[place]bundle.Ref),
	}
}

// report notes a broken invariant.
func (l *ledger) report(format string, args ...any) {
	l.bad = append(l.bad, fmt.Sprintf(format, args...))
	if l.alarm != nil {
		l.alarm()
	}
}

func (l *ledger) put(key string, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == putReplaces {
		_ = l.objects.Delete(context.Background(), key)
	}
	err := l.objects.Put(context.Background(), key, objstore.Buffers{body})
	if errors.Is(err, objstore.ErrExists) {
		l.count["puts refused"]++
	}
	if id, seq, ok := walKey(key); ok && err == nil {
		l.land(id, seq, body)
	}
	return err
}

func (l *ledger) delete(keys []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remove(keys)
}

// remove deletes objects, of which nothing may name any.
func (l *ledger) remove(keys []string) error {
	for _, key := range keys {
		if l.refs[key] > 0 {
			l.report("%s is deleted, which the catalogue names", key)
		}
		if id, seq, ok := walKey(key); ok {
			b, _ := l.objects.Object(key)
			at, sealed := l.sealed[id]
			switch {
			case len(b) == bundle.SealSize && sealed && seq < at: // put where the WAL had been trimmed, by one who came late
				l.count["stray seals deleted"]++
			case len(b) == bundle.SealSize:
				l.report("the seal %s is deleted", key)
			}
			l.removeWAL(key, id, seq)
		}
		l.count["objects deleted"]++
	}
	return l.objects.Delete(context.Background(), keys...)
}

// removeWAL deletes an object of a session's WAL: one that its item gives up, or
// one that came too late, behind the recorded seal.
func (l *ledger) removeWAL(key string, id catalog.SessionID, seq int64) {
	s, known := l.sessions[id]
	if s.state == catalog.Sealed && seq > s.sealedAt {
		l.count["late WAL objects deleted"]++
		return
	}
	if known && seq > s.trim {
		l.report("%s is deleted, the session, %s at %d, says up to %d", key, s.state, s.sealedAt, s.trim)
	}
	if seq >= l.leastNamed(id) {
		l.report("%s is deleted, a slot needs the WAL from %d on", key, l.leastNamed(id))
	}
}

// walKey parses a WAL object's key.
func walKey(key string) (id catalog.SessionID, seq int64, ok bool) {
	o, ok := wal.ParseKey(key)
	return catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}, o.Seq, ok
}

// leastNamed returns the first object of a session's WAL that a slot needs.
func (l *ledger) leastNamed(id catalog.SessionID) int64 {
	least := int64(1<<63 - 1)
	for _, s := range l.slots {
		for i, sp := range s.spans {
			if sp.Session == id && (sp.To < 0 || s.needs[i] < sp.To) {
				least = min(least, s.needs[i])
			}
		}
	}
	return least
}

func (l *ledger) commit(p *process, id string, ops []meta.Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == trimFirst {
		l.trimAhead(ops)
	}
	if err := l.items.Commit(context.Background(), id, ops...); err != nil {
		l.count["commits refused"]++
		return err
	}
	compacted := l.compaction(ops)
	for _, op := range ops {
		if op.Kind == meta.OpCheck {
			continue
		}
		area, rest, _ := strings.Cut(op.Key.PK, "/")
		switch area {
		case "slots":
			l.slot(p, op)
		case "session":
			l.session(p, op)
		case "log":
			if !compacted {
				l.segment(p, rest, op, ops)
			}
		case "starts":
			l.start(op)
		case "tombstones":
			l.deleted[op.Key.SK] = true
		}
	}
	return nil
}

func (l *ledger) slot(p *process, op meta.Op) {
	n := op.Attrs["slot"].(int64)
	next := ownership{
		epoch: op.Attrs["epoch"].(int64), writer: p,
		owner: catalog.SessionID{Broker: int32(op.Attrs["owner_broker"].(int64)), Epoch: op.Attrs["owner_session"].(int64)},
	}
	l.decode(op, "spans", &next.spans)
	l.decode(op, "checkpoints", &next.checkpoints)
	old, had := l.slots[n]
	switch before := l.sessions[old.owner]; {
	case !had:
	case next.epoch == old.epoch && (next.owner != old.owner || before.process != p):
		l.report("slot %d: life %d writes epoch %d, which is session %v's", n, p.number, old.epoch, old.owner)
	case next.epoch != old.epoch && next.epoch != old.epoch+1:
		l.report("slot %d: epoch %d after %d", n, next.epoch, old.epoch)
	case next.epoch > old.epoch && before.state != catalog.Sealed && before.process != p:
		l.report("slot %d: life %d takes it from session %v, which is %s", n, p.number, old.owner, before.state)
	case next.epoch > old.epoch && l.sessions[next.owner].state != catalog.Live:
		l.report("slot %d: life %d gives it to session %v, which is %q", n, p.number, next.owner, l.sessions[next.owner].state)
	case next.epoch > old.epoch:
		l.count["slots taken"]++
	case len(old.checkpoints) > len(next.checkpoints):
		l.count["checkpoints merged"]++
	default:
		l.count["checkpoints"]++
	}
	for _, sp := range next.spans {
		from := l.need(sp, old, next)
		s, there := l.sessions[sp.Session]
		if !there {
			l.report("slot %d: names session %v, which is forgotten", n, sp.Session)
		}
		if from <= s.trim && (sp.To < 0 || from < sp.To) {
			l.report("slot %d: needs session %v from %d on, which is trimmed to %d", n, sp.Session, from, s.trim)
		}
		next.needs = append(next.needs, from)
	}
	for _, c := range next.checkpoints {
		l.refs[c.Key]++
	}
	for _, c := range old.checkpoints {
		l.refs[c.Key]--
	}
	l.slots[n] = next
}

// need returns from where on a slot needs a span. The span of a new owner may
// begin where its WAL was some time ago: of what has landed by now nothing is the slot's.
func (l *ledger) need(sp catalog.Span, old, next ownership) int64 {
	for i, known := range old.spans {
		if known.Session == sp.Session && known.From == sp.From {
			return old.needs[i]
		}
	}
	if sp.To < 0 && sp.Session == next.owner && next.epoch > old.epoch {
		return max(sp.From, l.landed[sp.Session])
	}
	return sp.From
}

// owners returns whose each slot is.
func (w *world) owners() map[int64]int32 {
	l := w.cluster.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[int64]int32)
	for s, o := range l.slots {
		all[s] = o.owner.Broker
	}
	return all
}

func (l *ledger) decode(op meta.Op, name string, into any) {
	if err := json.Unmarshal([]byte(op.Attrs[name].(string)), into); err != nil {
		l.report("item %v: %s: %v", op.Key, name, err)
	}
}

func (l *ledger) session(p *process, op meta.Op) {
	broker, _ := strconv.Atoi(strings.TrimPrefix(op.Key.PK, "session/"))
	epoch, _ := strconv.ParseInt(op.Key.SK, 10, 64)
	id := catalog.SessionID{Broker: int32(broker), Epoch: epoch}
	if op.Kind == meta.OpDelete {
		if l.leastNamed(id) < 1<<63-1 {
			l.report("session %v is forgotten, a slot names it", id)
		}
		delete(l.sessions, id)
		return
	}
	old, had := l.sessions[id]
	next := life{state: catalog.SessionState(op.Attrs["state"].(string)), sealedAt: op.Attrs["sealed_at"].(int64), trim: op.Attrs["trim"].(int64), process: old.process}
	if !had {
		next.process = p
	}
	order := map[catalog.SessionState]int{"": 0, catalog.Live: 1, catalog.Fenced: 2, catalog.Sealed: 3}
	switch {
	case order[next.state] < order[old.state]:
		l.report("session %v: %s after %s", id, next.state, old.state)
	case old.state == catalog.Sealed && next.sealedAt != old.sealedAt:
		l.report("session %v: sealed at %d after %d", id, next.sealedAt, old.sealedAt)
	case had && next.trim < old.trim:
		l.report("session %v: trimmed to %d after %d", id, next.trim, old.trim)
	case had && next.trim > old.trim && (next.state == catalog.Fenced || next.state == catalog.Live && old.process != p):
		l.report("session %v: life %d trims it while it is %s", id, p.number, next.state)
	case had && next.trim > old.trim && next.trim >= l.leastNamed(id):
		l.report("session %v: trimmed to %d, a slot needs it from %d on", id, next.trim, l.leastNamed(id))
	case had && next.trim > old.trim:
		l.count["trims"]++
	}
	l.sessions[id] = next
	if next.state == catalog.Sealed && old.state != catalog.Sealed {
		l.sealed[id] = next.sealedAt
		l.count["sessions sealed"]++
		l.wholeWAL(id, next)
		if l.broken == sealsVanish {
			_ = l.objects.Delete(context.Background(), wal.Key(bundle.Origin{Broker: id.Broker, Epoch: id.Epoch, Seq: next.sealedAt}))
		}
	}
}

// wholeWAL looks whether what slots need of a sealed session is there, and its seal.
func (l *ledger) wholeWAL(id catalog.SessionID, s life) {
	for seq := max(s.trim+1, min(l.leastNamed(id), s.sealedAt)); seq <= s.sealedAt; seq++ {
		key := wal.Key(bundle.Origin{Broker: id.Broker, Epoch: id.Epoch, Seq: seq})
		b, ok := l.objects.Object(key)
		if !ok || (len(b) == bundle.SealSize) != (seq == s.sealedAt) {
			l.report("session %v, sealed at %d: %s is missing, or a seal where none should be", id, s.sealedAt, key)
		}
	}
}

// segment looks at an entry of a log: those of one log touch each other, and
// go only when their records have gone.
func (l *ledger) segment(p *process, log string, op meta.Op, ops []meta.Op) {
	base := baseOf(op)
	if l.logs[log] == nil {
		l.logs[log] = make(map[int64]entry)
	}
	topic, _, _ := strings.Cut(log, "/")
	old, start := l.logs[log][base], l.starts[log]
	l.refs[old.key]--
	if op.Kind == meta.OpDelete {
		newest := true
		for b := range l.logs[log] {
			newest = newest && b <= base
		}
		if !l.deleted[topic] && (old.end > start || newest) {
			l.report("log %s: entry %d to %d goes; the log starts at %d, newest: %v", log, base, old.end, start, newest)
		}
		delete(l.logs[log], base)
		l.count["segments removed"]++
		return
	}
	next := entry{op.Attrs["end"].(int64), op.Attrs["key"].(string)}
	l.logs[log][base] = next
	l.refs[next.key]++
	if op.Kind == meta.OpReplace {
		if next.end != old.end || next.key != "" || next.end > start {
			l.report("log %s: entry %d to %d becomes %d to %d; the log starts at %d", log, base, old.end, base, next.end, start)
		}
		l.count["segments emptied"]++
		return
	}
	l.count["segments"]++
	end := int64(0)
	for b, e := range l.logs[log] {
		if b < base {
			end = max(end, e.end)
		} else if b > base {
			l.report("log %s: entry %d comes after entry %d", log, base, b)
		}
	}
	if base != end && base > start || base < end || next.end <= base {
		l.report("log %s: entry %d to %d behind %d; the log starts at %d", log, base, next.end, end, start)
	}
	for _, check := range ops {
		if check.Key.PK == "slots" {
			n, _ := strconv.ParseInt(check.Key.SK, 10, 64)
			if owner := l.slots[n].owner; l.sessions[owner].process == p {
				return
			}
		}
	}
	l.report("log %s: entry %d is committed by life %d, which does not own its slot", log, base, p.number)
}

func (l *ledger) start(op meta.Op) {
	if op.Kind == meta.OpDelete {
		return
	}
	to := op.Attrs["offset"].(int64)
	if to < l.starts[op.Key.SK] {
		l.report("log %s: starts at %d after %d", op.Key.SK, to, l.starts[op.Key.SK])
	}
	l.starts[op.Key.SK] = to
	l.count["log starts raised"]++
}

// verdict returns what was wrong, and what is wrong at the end.
func (l *ledger) verdict() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, n := range l.refs {
		if _, ok := l.objects.Object(key); !ok && n > 0 && key != "" {
			l.report("%s is gone, which the catalogue names", key)
		}
	}
	for id, s := range l.sessions {
		if s.state == catalog.Sealed {
			l.wholeWAL(id, s)
		}
	}
	return l.bad
}
