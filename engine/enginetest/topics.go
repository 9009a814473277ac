package enginetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// trimmed is the history of the topic whose beginning goes. It has one
// producer and one partition; its owner is the goroutine that writes it.
type trimmed struct {
	history []sent
	times   map[int64]time.Time // of what was acknowledged: when it was produced, by offset
	asked   int64               // the largest offset that DeleteRecords was asked for
	done    int64               // and answered for
	bad     []string
}

func newTrimmed() trimmed { return trimmed{times: make(map[int64]time.Time)} }

// trim writes to trimmedTopic and deletes records from its beginning, until trouble ends.
func (w *world) trim(ctx, trouble context.Context) {
	h := &w.trimmed
	for n := 0; trouble.Err() == nil && ctx.Err() == nil; {
		cl := w.producer(ctx, kgo.RecordDeliveryTimeout(30*time.Second))
		cancel := context.AfterFunc(ctx, cl.Close)
		for range 20 {
			at := time.Now()
			s := sent{producer: producers, n: n}
			r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: trimmedTopic, Timestamp: at, Value: []byte(valueOf(s.producer, n))}).First()
			n++
			if s.acked = err == nil; s.acked {
				s.offset = r.Offset
				h.times[s.offset] = at
			}
			h.history = append(h.history, s)
			wait(trouble, w.dice.upTo("trim", 300*time.Millisecond))
			if s.acked && w.dice.oneIn("trim", 15) {
				w.deleteRecords(ctx, cl, s.offset-int64(w.dice.below("trim", 10)))
			}
			if trouble.Err() != nil {
				break
			}
		}
		cancel()
		cl.Close()
	}
}

func (w *world) deleteRecords(ctx context.Context, cl *client, to int64) {
	h := &w.trimmed
	if to <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	h.asked = max(h.asked, to)
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: trimmedTopic, Partition: 0, At: to})
	r, err := kadm.NewClient(cl.Client).DeleteRecords(ctx, offsets)
	if err = errors.Join(err, r.Error()); err == nil {
		h.done = max(h.done, to)
	}
}

// checkTrimmed compares what is left of trimmedTopic with what should be: all
// behind its start; and that has gone as far as was asked for, no further than that or
// than what retention may take.
func (w *world) checkTrimmed(ctx context.Context) {
	h := &w.trimmed
	cl := w.client(kgo.ConsumeTopics(trimmedTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	ends := w.ends(ctx, cl, trimmedTopic)
	var read []seen
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	start := w.startOf(ctx, cl)
	for next := start; next < ends[0] && limit.Err() == nil; {
		cl.PollFetches(limit).EachRecord(func(r *kgo.Record) {
			read = append(read, seen{0, r.Offset, string(r.Value)})
			next = r.Offset + 1
		})
	}
	start = w.startOf(ctx, cl) // retention went on meanwhile
	read = slices.DeleteFunc(read, func(s seen) bool { return s.offset < start })
	h.bad = append(h.bad, check(h.history, read, map[int32]int64{0: start})...)
	if start < h.done {
		h.bad = append(h.bad, fmt.Sprintf("trimmed: the log starts at %d, %d was deleted", start, h.done))
	}
	for off, at := range h.times {
		if off < start && off >= h.asked && time.Since(at) < retention {
			h.bad = append(h.bad, fmt.Sprintf("trimmed: offset %d has gone after %s; the log starts at %d", off, time.Since(at), start))
		}
	}
}

func (w *world) startOf(ctx context.Context, cl *client) int64 {
	return w.list(ctx, func() (kadm.ListedOffsets, error) {
		return kadm.NewClient(cl.Client).ListStartOffsets(ctx, trimmedTopic)
	})[0]
}

// errStaleID is the answer of a broker that has slept since the former life of a topic.
var errStaleID = errors.New("enginetest: the id of a topic that was deleted")

// churn makes, fills, reads and deletes a topic, again and again until trouble ends.
func (w *world) churn(ctx, trouble context.Context) {
	var id kadm.TopicID
	for n := 0; trouble.Err() == nil && ctx.Err() == nil; n++ {
		cl, former := w.producer(ctx), id
		insist(ctx, func() (err error) {
			if err = createTopic(ctx, cl, churnedTopic, 1, nil); err == nil {
				id, err = topicID(ctx, cl, churnedTopic)
			}
			if err == nil && id == former {
				err = errStaleID
			}
			return err
		})
		acked := w.fill(ctx, cl, n)
		for try := 0; ; try++ {
			bad := w.readChurned(ctx, n, acked)
			if bad == "" || ctx.Err() != nil {
				break
			}
			if try == 9 { // for five minutes: a broker may sleep for two
				w.report("churned: %s", bad)
				break
			}
		}
		cl = w.client()
		insist(ctx, func() error { return deleteTopic(ctx, cl, id) })
		cl.Close()
	}
}

// fill writes the records of a life of churnedTopic and returns how many were
// acknowledged. A client that was told the former topic's id by a zombie never gets over
// it: it is closed after some time.
func (w *world) fill(ctx context.Context, cl *client, n int) (acked int) {
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	defer context.AfterFunc(ctx, cl.Close)()
	for limit := 1 + w.dice.below("churn", 12); acked < limit; acked++ {
		value := fmt.Sprintf("topic %d record %d", n, acked)
		r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: churnedTopic, Value: []byte(value)}).First()
		if err != nil {
			break // the client has given up; what became of it is unknown
		}
		if r.Offset != int64(acked) {
			w.report("churned: %q at offset %d", value, r.Offset)
		}
		wait(ctx, w.dice.upTo("churn", 300*time.Millisecond))
	}
	return acked
}

// readChurned reads a life of churnedTopic and tells what is wrong with it.
func (w *world) readChurned(ctx context.Context, n, count int) (bad string) {
	cl := w.client(kgo.ConsumeTopics(churnedTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	next := 0
	for next < count && limit.Err() == nil && bad == "" {
		cl.PollFetches(limit).EachRecord(func(r *kgo.Record) {
			if want := fmt.Sprintf("topic %d record %d", n, next); next < count && bad == "" && (r.Offset != int64(next) || string(r.Value) != want) {
				bad = fmt.Sprintf("%q at offset %d, want %q at %d", r.Value, r.Offset, want, next)
			}
			next++
		})
	}
	if next < count && bad == "" {
		bad = fmt.Sprintf("life %d has %d records, read %d", n, count, next)
	}
	return bad
}

// deleteTopic makes sure that a topic is gone. It deletes it by its id: a
// request that was long on the way must not meet the next topic of the name.
func deleteTopic(ctx context.Context, cl *client, id kadm.TopicID) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.TopicID = id
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), 10_000
	r, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(r.Topics[0].ErrorCode); !errors.Is(err, kerr.UnknownTopicID) {
		return err
	}
	return nil // by an earlier attempt
}

// topicID returns the id of a topic that is there.
func topicID(ctx context.Context, cl *client, name string) (kadm.TopicID, error) {
	listed, err := kadm.NewClient(cl.Client).ListTopics(ctx, name)
	if err != nil {
		return kadm.TopicID{}, err
	}
	return listed[name].ID, listed[name].Err
}
