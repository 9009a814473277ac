package enginetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/internal/meta"
)

const compactedKeys = 5

// compacted is the history of the topic that keeps the last record of each
// key. It has one producer and one partition; its owner is the goroutine that writes it.
type compacted struct {
	sent []keyed
	bad  []string
}

// keyed is a record of it; its number is its place in the history.
type keyed struct {
	key    string
	acked  bool
	offset int64 // if acked
}

// compact writes to compactedTopic until trouble ends.
func (w *world) compact(ctx, trouble context.Context) {
	h := &w.compacted
	for trouble.Err() == nil && ctx.Err() == nil {
		cl := w.producer(ctx, kgo.RecordDeliveryTimeout(30*time.Second))
		cancel := context.AfterFunc(ctx, cl.Close)
		for n := 0; n < 20 && trouble.Err() == nil; n++ {
			s := keyed{key: fmt.Sprint("key ", w.dice.below("compact", compactedKeys))}
			r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: compactedTopic, Key: []byte(s.key), Value: fmt.Append(nil, len(h.sent))}).First()
			if s.acked = err == nil; s.acked {
				s.offset = r.Offset
			}
			h.sent = append(h.sent, s)
			wait(trouble, w.dice.upTo("compact", 300*time.Millisecond))
		}
		cancel()
		cl.Close()
	}
}

// checkCompacted reads compactedTopic until one record of each key is left. At
// no time is a record there that was not sent, or at another place than was
// acknowledged, or the last one of a key gone.
func (w *world) checkCompacted(ctx context.Context) {
	h := &w.compacted
	left := 0
	if overdue(ctx, 5*time.Minute, time.Second, func() bool {
		var read []*kgo.Record
		if read, h.bad = w.readCompacted(ctx); len(h.bad) > 0 {
			return true
		}
		keys := make(map[string]bool)
		for _, r := range read {
			keys[string(r.Key)] = true
		}
		left = len(read) - len(keys)
		return left == 0
	}) {
		h.bad = append(h.bad, fmt.Sprintf("compacted: %d records are left that later ones have replaced", left))
	}
}

func (w *world) readCompacted(ctx context.Context) (read []*kgo.Record, bad []string) {
	cl := w.client(kgo.ConsumeTopics(compactedTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	end := w.ends(ctx, cl, compactedTopic)[0]
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for next := int64(0); next < end && limit.Err() == nil; {
		cl.PollFetches(limit).EachRecord(func(r *kgo.Record) {
			read = append(read, r)
			next = r.Offset + 1
		})
	}
	return read, w.compacted.check(read)
}

// check compares what was read with what was sent.
func (h *compacted) check(read []*kgo.Record) (bad []string) {
	last := make(map[string]int) // of each key, the number of the last one that was read
	for i, r := range read {
		var n int
		if _, err := fmt.Sscan(string(r.Value), &n); err != nil || n >= len(h.sent) || h.sent[n].key != string(r.Key) {
			bad = append(bad, fmt.Sprintf("compacted: %q = %q was never sent", r.Key, r.Value))
			continue
		}
		if s := h.sent[n]; s.acked && s.offset != r.Offset {
			bad = append(bad, fmt.Sprintf("compacted: record %d is at offset %d, acknowledged at %d", n, r.Offset, s.offset))
		}
		if before, ok := last[string(r.Key)]; ok && before >= n || i > 0 && r.Offset <= read[i-1].Offset {
			bad = append(bad, fmt.Sprintf("compacted: record %d at offset %d is out of order", n, r.Offset))
		}
		last[string(r.Key)] = n
	}
	for n, s := range h.sent {
		if got, ok := last[s.key]; s.acked && (!ok || got < n) {
			bad = append(bad, fmt.Sprintf("compacted: %q has no record as late as %d, which was acknowledged at offset %d", s.key, n, s.offset))
		}
	}
	return bad
}

// compaction looks at a commit that puts one entry in the place of a run of
// others, cleaned or merged, if it is one: it has their range.
func (l *ledger) compaction(ops []meta.Op) bool {
	i := slices.IndexFunc(ops, func(op meta.Op) bool {
		return op.Kind == meta.OpReplace && strings.HasPrefix(op.Key.PK, "log/") && (op.Attrs["cleaned"] != nil || op.Attrs["key"] != "")
	})
	if i < 0 {
		return false
	}
	log := strings.TrimPrefix(ops[i].Key.PK, "log/")
	base := baseOf(ops[i])
	end, what := base, "segments compacted"
	if ops[i].Attrs["cleaned"] == nil {
		what = "segments merged"
	}
	for _, op := range ops {
		if op.Key.PK != ops[i].Key.PK || op.Kind == meta.OpCheck {
			continue
		}
		old := l.logs[log][baseOf(op)]
		if baseOf(op) != end || op.Kind == meta.OpCreate {
			l.report("log %s: compaction puts one entry in the place of %d to %d and %d to %d", log, base, end, baseOf(op), old.end)
		}
		end = old.end
		l.refs[old.key]--
		delete(l.logs[log], baseOf(op))
		l.count[what]++
	}
	next := entry{ops[i].Attrs["end"].(int64), ops[i].Attrs["key"].(string)}
	if next.end != end {
		l.report("log %s: entries %d to %d become one to %d", log, base, end, next.end)
	}
	l.logs[log][base] = next
	l.refs[next.key]++
	return true
}

// baseOf returns the first offset of an entry.
func baseOf(op meta.Op) int64 {
	base, _ := strconv.ParseInt(strings.TrimPrefix(op.Key.SK, "seg/"), 10, 64)
	return base
}
