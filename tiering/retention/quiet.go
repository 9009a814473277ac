package retention

import (
	"context"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// maxLook is the longest time after which a log without sealed records is looked at again.
const maxLook = time.Hour

// quiet is what a Job remembers of a log of which nothing had to go: until when
// that stays so. A log's oldest records go by time first, and what is added or merged behind
// them makes them no older, so until the first of them expires only a new setting or
// log start changes anything, or, with retention.bytes, a new newest entry. A
// log without sealed records may get some that are old already: it is looked at again
// well within the time that it keeps them. What is remembered decides only when to look.
type quiet struct {
	rule  *rule // nil: nothing is remembered
	start kafka.Offset
	until int64        // ms; 0: for ever
	end   kafka.Offset // with tail: of what retention.bytes counts
	tail  int64
}

// rule is what Plan goes by.
type rule struct {
	compact, delete bool
	ms, bytes       int64
}

func ruleOf(c config.Topic) *rule { return &rule{c.Compact, c.Delete, c.RetentionMs, c.RetentionBytes} }

func (r *rule) bySize() bool { return r.delete && r.bytes >= 0 }
func (r *rule) byTime() bool { return r.delete && r.ms >= 0 }

// rests tells whether a log need not be looked at.
func (t *turn) rests(ctx context.Context, l logOf) (bool, error) {
	var q quiet
	if known := t.quiet[l.tp.Topic]; int(l.tp.Partition) < len(known) {
		q = known[l.tp.Partition]
	}
	if q.rule == nil || *q.rule != *l.rule || q.start != l.start || q.until != 0 && time.Now().UnixMilli() >= q.until {
		return false, nil
	}
	if !q.rule.bySize() {
		return true, nil
	}
	var newest catalog.Segment
	err := bounded(ctx, func(ctx context.Context) (err error) {
		newest, _, err = t.o.Catalog.NewestSegment(ctx, l.tp)
		return err
	})
	return err == nil && newest.End == q.end && t.o.Tail(l.tp) <= q.tail, err
}

// rest remembers a log of whose entries nothing had to go. kept is the first of
// those that hold records.
func (t *turn) rest(l logOf, kept *catalog.Segment, size size) {
	q := quiet{rule: l.rule, start: l.start, end: size.end, tail: size.tail}
	if kept != nil && q.rule.byTime() {
		q.until = agedFrom(kept) + min(q.rule.ms, 1<<53) + 1
	}
	if kept == nil || q.rule.compact { // compaction may make what is oldest older
		look := (maxLook/2 + rand.N(maxLook/2)).Milliseconds() // not all at the same time
		if q.rule.byTime() {
			look = min(look, q.rule.ms/12)
		}
		if at := time.Now().UnixMilli() + look; q.until == 0 || at < q.until {
			q.until = at
		}
	}
	known := t.quiet[l.tp.Topic]
	if n := int(l.topic.Partitions); n > len(known) {
		known = append(make([]quiet, 0, n), known...)[:n]
		t.quiet[l.tp.Topic] = known
	}
	known[l.tp.Partition] = q
}

// forget drops what is remembered of logs that are gone.
func (j *Job) forget() {
	topics := j.o.Catalog.Topics()
	maps.DeleteFunc(j.quiet, func(id kafka.TopicID, _ []quiet) bool {
		_, ok := topics.ByID(id)
		return !ok
	})
}
