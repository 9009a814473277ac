package rebuild

import (
	"cmp"
	"maps"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

// checkpoint is a slot's part of a checkpoint.
type checkpoint struct {
	ref    catalog.CheckpointRef
	writer catalog.SessionID
	states map[kafka.TopicPartition]stateAt
	runs   map[kafka.TopicPartition][]Run // of its slices
	sealed kafka.Offset                   // sum of the states'
	next   kafka.Offset                   // sum of the states': later checkpoints of a slot have more
}

type stateAt struct{ next, sealedEnd kafka.Offset }

// takeCheckpoint notes what a checkpoint has of each slot.
func (s *scan) takeCheckpoint(key string, o *bundle.Object) {
	parts := make(map[kafka.Slot]*checkpoint)
	for i := range o.States {
		st := &o.States[i]
		s.state(st)
		if !s.takes(st.TP.Topic) {
			continue
		}
		s.seen(st.TP, st.Slot)
		c := parts[st.Slot]
		if c == nil {
			c = &checkpoint{
				ref: catalog.CheckpointRef{Key: key, Size: o.Size}, writer: catalog.SessionID{Broker: o.Origin.Broker, Epoch: o.Origin.Epoch},
				states: make(map[kafka.TopicPartition]stateAt), runs: make(map[kafka.TopicPartition][]Run),
			}
			parts[st.Slot] = c
			s.checkpoints[st.Slot] = append(s.checkpoints[st.Slot], c)
		}
		c.states[st.TP] = stateAt{st.NextOffset, st.SealedEnd}
		c.next, c.sealed = c.next+st.NextOffset, c.sealed+st.SealedEnd
	}
	for i := range o.Slices {
		sl := &o.Slices[i]
		if c := parts[sl.Slot]; c != nil && len(sl.Batches) > 0 {
			r := sl.Ref(key)
			c.runs[sl.TP] = append(c.runs[sl.TP], Run{r.Base, r.Last + 1})
		}
	}
}

// chooseCheckpoints chooses for each slot the newest checkpoint, and of the
// older ones those that have slices that are in no newer one and in no
// segment:
//
//	segments ─────────▶│
//	     [ 0–40 ][ 40–60 ][ 60–90 ]            three, the first is not needed any more
//	              [ 40 –––––––– 90 ]           written to take their place
//	                                [ 90–95 ]  the newest
func (s *scan) chooseCheckpoints() {
	for slot, all := range s.checkpoints {
		slices.SortFunc(all, func(a, b *checkpoint) int {
			return cmp.Or(cmp.Compare(b.next, a.next), cmp.Compare(b.sealed, a.sealed), cmp.Compare(len(b.runs), len(a.runs)), cmp.Compare(b.ref.Key, a.ref.Key))
		})
		need := make(map[kafka.TopicPartition]kafka.Offset) // slices are needed up to here
		for tp, st := range all[0].states {
			l := s.log(tp)
			l.next, l.sealedEnd = st.next, st.sealedEnd
			need[tp] = st.next
		}
		chosen := all[:0:0]
		for i, c := range all {
			if i == 0 || s.adds(c, need) {
				chosen = append(chosen, c)
				for tp, runs := range c.runs {
					if runs[len(runs)-1].To == need[tp] {
						need[tp] = runs[0].From
					}
				}
			}
		}
		for tp, end := range need {
			l := s.log(tp)
			switch from := max(l.sealedEnd, l.end, l.start); {
			case end <= from:
			case s.manifest == nil: // the log's start may lie there, and nothing says so
				l.cut = Run{from, end}
			default:
				s.report.found(Broken, "%s: no checkpoint has offsets %d to %d, which the newest one builds on", tp, from, end-1)
			}
		}
		slices.Reverse(chosen)
		s.checkpoints[slot] = chosen
	}
}

// adds tells whether a checkpoint ends where slices are still needed.
func (s *scan) adds(c *checkpoint, need map[kafka.TopicPartition]kafka.Offset) bool {
	for tp, runs := range c.runs {
		l, end := s.log(tp), need[tp]
		if end > max(l.sealedEnd, l.end) && runs[len(runs)-1].To == end {
			return true
		}
	}
	return false
}

// session is what is there of a session.
type session struct {
	id      catalog.SessionID
	nonce   [16]byte
	seals   []int64 // positions
	objects []int64 // positions of WAL objects
	end     int64   // where its WAL ends; -1: it has no seal
	marked  bool    // so a mark says
	slices  []slice // behind the checkpoints, in the order of the WAL
	from    int64   // the first object that is needed
}

func (at *session) sealed() bool { return len(at.seals) > 0 }

// slice is a slice of a WAL object.
type slice struct {
	seq   int64
	slot  kafka.Slot
	tp    kafka.TopicPartition
	run   Run
	epoch kafka.LeaderEpoch
}

// takeWAL notes the slices of a WAL object that lie behind the checkpoints.
func (s *scan) takeWAL(at *session, o *bundle.Object) {
	seq := o.Origin.Seq
	if at.sealed() && seq >= at.end {
		if !at.marked && len(at.seals) > 1 && s.behindCheckpoints(o) && (s.manifest == nil || s.manifest.Cluster.Level < catalog.LevelNames) {
			s.report.found(Undecided, "WAL object %d of session %d of broker %d lies between seals, and no mark says which of them counts: it is left out", seq, at.id.Epoch, at.id.Broker)
		}
		return
	}
	for i := range o.Slices {
		sl := &o.Slices[i]
		if !s.takes(sl.TP.Topic) || len(sl.Batches) == 0 {
			continue
		}
		l := s.seen(sl.TP, sl.Slot)
		for _, b := range sl.Batches {
			s.producer(b.ProducerID)
		}
		r, last := sl.Ref(""), sl.Batches[len(sl.Batches)-1]
		s.epoch(sl.Slot, last.LeaderEpoch)
		if r.Last >= l.next {
			at.slices = append(at.slices, slice{seq, sl.Slot, sl.TP, Run{r.Base, r.Last + 1}, last.LeaderEpoch})
		}
	}
}

func (s *scan) behindCheckpoints(o *bundle.Object) bool {
	return slices.ContainsFunc(o.Slices, func(sl bundle.Slice) bool {
		return s.takes(sl.TP.Topic) && len(sl.Batches) > 0 && sl.Ref("").Last >= s.log(sl.TP).next
	})
}

// inOrder returns the sessions by broker and age.
func (s *scan) inOrder() []*session {
	return slices.SortedFunc(maps.Values(s.sessions), func(a, b *session) int {
		return cmp.Or(cmp.Compare(a.id.Broker, b.id.Broker), cmp.Compare(a.id.Epoch, b.id.Epoch))
	})
}

// bound finds where a session's part of the tails begins, and where the WAL of one
// without a seal ends now: at the first gap. Objects that are there from before the last
// trimming are not needed, so the first that is needed is either where the WAL goes on from
// its last checkpoint, or already behind a gap: then it does not go on
// from what is known.
func (s *scan) bound(at *session, ends map[kafka.TopicPartition]map[kafka.Offset]bool) {
	if !at.sealed() {
		at.end = -1
		if n := len(at.objects); n > 0 {
			at.end = at.objects[n-1] + 1
		}
	}
	if at.from = at.end; len(at.slices) == 0 {
		return
	}
	at.from = at.slices[0].seq
	for _, sl := range at.slices {
		goesOn := sl.run.From <= s.log(sl.tp).next || ends[sl.tp][sl.run.From]
		if sl.seq == at.from && !goesOn && !at.sealed() {
			s.report.found(Note, "WAL objects of session %d of broker %d from %d on lie behind a gap: nobody was told that they are durable", at.id.Epoch, at.id.Broker, at.from)
			at.end, at.slices = at.from, nil
			return
		}
	}
	there := make(map[int64]bool, len(at.objects))
	for _, seq := range at.objects {
		there[seq] = true
	}
	for seq := at.from; seq < at.end; seq++ {
		if there[seq] {
			continue
		}
		if at.sealed() {
			s.report.found(Broken, "WAL object %d of session %d of broker %d is missing below its seal at %d", seq, at.id.Epoch, at.id.Broker, at.end)
		} else {
			s.report.found(Note, "WAL objects of session %d of broker %d behind %d lie behind a gap: nobody was told that they are durable", at.id.Epoch, at.id.Broker, seq)
		}
		at.end = seq
	}
	at.slices = slices.DeleteFunc(at.slices, func(sl slice) bool { return sl.seq >= at.end })
	s.report.WAL += at.end - at.from
}

// tenure is a run of a session's WAL in which it wrote to a slot under one leader epoch.
type tenure struct {
	at       *session
	epoch    kafka.LeaderEpoch
	from, to int64 // to exclusive
}

// chooseTails makes the slots' items: the checkpoints and spans that their
// tails are recovered from, in order.
func (s *scan) chooseTails() {
	ends := make(map[kafka.TopicPartition]map[kafka.Offset]bool)
	for _, at := range s.sessions {
		for _, sl := range at.slices {
			if ends[sl.tp] == nil {
				ends[sl.tp] = make(map[kafka.Offset]bool)
			}
			ends[sl.tp][sl.run.To] = true
		}
	}
	tenures := make(map[kafka.Slot][]tenure)
	var open []*session
	for _, at := range s.inOrder() {
		s.bound(at, ends)
		for _, sl := range at.slices {
			all := tenures[sl.slot]
			if n := len(all); n > 0 && all[n-1].at == at && all[n-1].epoch == sl.epoch {
				all[n-1].to = sl.seq + 1
				continue
			}
			tenures[sl.slot] = append(all, tenure{at, sl.epoch, sl.seq, sl.seq + 1})
		}
		if !at.sealed() {
			open = append(open, at)
		}
	}
	named := make(map[catalog.SessionID]bool)
	for n := range kafka.Slot(s.plan.cluster.Slots) {
		if slot, ok := s.slot(n, tenures[n], open); ok {
			s.plan.slots = append(s.plan.slots, slot)
			named[slot.Owner] = true
			for _, sp := range slot.Spans {
				named[sp.Session] = true
			}
		}
	}
	for _, at := range s.inOrder() {
		if named[at.id] {
			s.plan.sessions = append(s.plan.sessions, s.entryOf(at))
		}
	}
	for b := range s.plan.highest {
		s.plan.highest[b] += spareSessions
	}
	s.plan.producers += spareProducers
}

// slot returns a slot's item; not ok for one that nobody has ever owned. A session
// without a seal may have gone on to write to it behind what was seen, if it
// owned it, and only one of them did.
func (s *scan) slot(n kafka.Slot, tenures []tenure, open []*session) (catalog.Slot, bool) {
	slot := catalog.Slot{Slot: n, Spans: []catalog.Span{}, Checkpoints: []catalog.CheckpointRef{}}
	slices.SortStableFunc(tenures, func(a, b tenure) int { return cmp.Compare(a.epoch, b.epoch) })
	for _, c := range s.checkpoints[n] {
		slot.Checkpoints = append(slot.Checkpoints, c.ref)
		slot.Owner = c.writer
	}
	s.report.Checkpoints += len(slot.Checkpoints)
	for _, t := range tenures {
		slot.Owner = t.at.id
		if last := len(slot.Spans) - 1; last >= 0 && slot.Spans[last].Session == t.at.id {
			slot.Spans[last].To = t.to
			continue
		}
		slot.Spans = append(slot.Spans, catalog.Span{Session: t.at.id, From: t.from, To: t.to})
	}
	for _, at := range open {
		if last := len(slot.Spans) - 1; last >= 0 && slot.Spans[last].Session == at.id {
			slot.Spans[last].To = -1
			continue
		}
		slot.Spans = append(slot.Spans, catalog.Span{Session: at.id, From: max(at.end, 0), To: -1})
		if len(tenures) == 0 && len(slot.Checkpoints) == 0 {
			slot.Owner = at.id
		}
	}
	e, owned := s.epochs[n]
	if !owned && len(slot.Spans) == 0 {
		return slot, false
	}
	if slot.Epoch = e + spareEpochs; len(slot.Spans)+len(slot.Checkpoints) == 0 {
		all := s.inOrder()
		if len(all) == 0 {
			return slot, false
		}
		slot.Owner = all[len(all)-1].id
	}
	return slot, true
}

// entryOf returns a session's item. What is not needed of its WAL counts as trimmed.
func (s *scan) entryOf(at *session) catalog.Session {
	entry := catalog.Session{
		ID: at.id, Nonce: at.nonce, State: catalog.Sealed, SealedAt: at.end, Trim: at.from - 1,
		Levels: catalog.Levels{Min: catalog.MinLevel, Max: catalog.Level},
	}
	if at.sealed() {
		return entry
	}
	entry.State, entry.SealedAt, entry.Trim = catalog.Fenced, -1, max(at.from, 0)-1
	s.report.Sessions++
	if len(at.objects) == 0 {
		s.report.found(Note, "session %d of broker %d has no seal, and where its WAL would go on is not known: see to it that its process has ended", at.id.Epoch, at.id.Broker)
	}
	return entry
}
