package enginetest

import (
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

// landing is how far a session's WAL is there without a gap. What lies behind one may be
// cut off by a seal in it.
type landing struct {
	next    int64
	waiting map[int64][]bundle.Slice // behind the gap
}

// land takes in an object of a session's WAL that has landed. A seal is one that
// nothing waits behind.
func (l *ledger) land(id catalog.SessionID, seq int64, body []byte) {
	l.landed[id] = max(l.landed[id], seq+1)
	o, err := bundle.Parse(body)
	if err != nil || o.Kind != bundle.KindWAL {
		return
	}
	w := l.whole[id]
	if w == nil {
		w = &landing{waiting: make(map[int64][]bundle.Slice)}
		l.whole[id] = w
	}
	w.waiting[seq] = o.Slices
	for slices, ok := w.waiting[w.next]; ok; slices, ok = w.waiting[w.next] {
		for i := range slices {
			s := &slices[i]
			l.durable[s.TP] = max(l.durable[s.TP], s.Batches[len(s.Batches)-1].LastOffset()+1)
		}
		delete(w.waiting, w.next)
		w.next++
	}
}

// durableEnd returns the offset up to which a log cannot be lost any more.
func (l *ledger) durableEnd(tp kafka.TopicPartition) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.durable[tp])
}

// isDurable notes what a client was told or given that may still be lost: all of a partition of
// keptTopic is there up to an offset, as the client who says.
func (w *world) isDurable(who string, partition int32, end int64) {
	tp := kafka.TopicPartition{Topic: kafka.TopicID(w.kept), Partition: partition}
	if durable := w.cluster.ledger.durableEnd(tp); end > durable {
		w.report("%s: partition %d is told of up to %d, only up to %d is it durable", who, partition, end, durable)
	}
}
