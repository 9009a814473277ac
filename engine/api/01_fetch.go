package api

import (
	"context"
	"reflect"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
	"github.com/varvelog/varve/tiering/objcache"
)

// Fetch (1), versions 4 to 18.
//
//	v5  log start offset     v7  sessions (KIP-227)     v9 leader epochs (KIP-320)
//	v11 rack                 v12 flexible               v13 topic ids
//
// Whole batches are returned; the first one of a response even where it is
// larger than the limits (KIP-74). A fetch waits, up to max.wait, until
// min.bytes are there, by the partitions' own signals.

// fetchPart is a partition that a fetch asks for.
type fetchPart struct {
	key     fetchKey
	from    kafka.Offset
	max     int32
	epoch   int32        // the leader epoch that the client knows; -1: none
	session *sessionPart // nil: no session
}

// fetchKey names a partition as the client does: by id from version 13, by
// name before.
type fetchKey struct {
	name      string
	id        kafka.TopicID
	partition int32
}

// fetching is one fetch under way.
type fetching struct {
	s       *Server
	conn    *conn
	req     *kmsg.FetchRequest
	replica bool // a broker asks, for a consumer of its own
	session sessionUse
	parts   []fetchPart
	logs    []*partition.Log      // of parts; nil for an error
	rows    []wire.FetchPartition // of parts
	next    []kafka.Offset        // of parts: behind what was read; 0: nothing was
	far     []far                 // of parts; nil: other brokers lead none that is read here
	leads   []*lead               // those brokers
	full    bool                  // a batch was left out that had no room: what follows is not read
	arena   *objcache.Arena
}

func (s *Server) fetch(work, poll context.Context, r *request) reply {
	req := r.msg.(*kmsg.FetchRequest)
	resp := &wire.FetchResponse{Version: r.Version, CorrelationID: r.CorrelationID}
	f := fetching{s: s, conn: r.conn, req: req, replica: fromReplica(req), arena: objcache.NewArena()}
	f.session, f.parts, resp.Err = s.sessions.begin(req)
	if resp.Err == kafka.None {
		r.conn.takeAhead(f.arena)
		f.run(work, poll)
		f.hint(resp)
		f.readAhead(work, r.conn)
		resp.Topics, resp.Err = f.topics()
	}
	if resp.Err == kafka.None {
		resp.SessionID = f.session.id()
	}
	return reply{bufs: r.conn.frames(resp), release: f.arena.Release}
}

// run reads until there is enough, an error, or no more time.
func (f *fetching) run(work, poll context.Context) {
	f.rows, f.next = make([]wire.FetchPartition, len(f.parts)), make([]kafka.Offset, len(f.parts))
	n, done := int64(0), !f.resolve(work)
	if !done {
		f.askAll(work, 0)
		f.collect(true)
		n, done = f.read(work)
	}
	if !done && n < int64(f.req.MinBytes) && f.req.MaxWaitMillis > 0 {
		n = f.wait(work, poll)
	}
	f.s.metrics.fetched.Add(float64(n))
}

// wait reads again whenever a partition changes. Other brokers, who wait as
// long, have some time more for their answers.
func (f *fetching) wait(work, poll context.Context) int64 {
	left := time.Duration(f.req.MaxWaitMillis) * time.Millisecond
	until := time.Now().Add(left)
	if len(f.leads) > 0 {
		left += askGrace
		defer f.stopAsking()
	}
	deadline := time.NewTimer(left)
	defer deadline.Stop()
	for {
		signals := f.signals() // taken before the read, so that nothing is missed
		f.collect(false)
		f.arena.Release()
		n, done := f.read(work)
		left = time.Until(until)
		if done || n >= int64(f.req.MinBytes) || left <= 0 {
			return n
		}
		f.askAll(poll, left)
		for _, l := range f.leads {
			signals = append(signals, l.asking.done)
		}
		if !await(poll, deadline, signals) {
			return n
		}
	}
}

// resolve finds the logs; false: there is nothing to wait for.
func (f *fetching) resolve(ctx context.Context) bool {
	topics := f.s.o.Catalog.Topics()
	f.s.wake(ctx, func(yield func(*catalog.Topic, int32) bool) {
		for i := range f.parts {
			key := &f.parts[i].key
			if t, code := lookup(topics, f.req.Version >= 13, key.name, key.id); code == kafka.None && !yield(t, key.partition) {
				return
			}
		}
	})
	f.logs = make([]*partition.Log, len(f.parts))
	good := 0
	for i := range f.parts {
		p := &f.parts[i]
		t, code := lookup(topics, f.req.Version >= 13, p.key.name, p.key.id)
		if code == kafka.None {
			f.logs[i], code = f.s.log(ctx, t, p.key.partition)
		}
		if code == kafka.NotLeaderOrFollower && f.follow(t, i) {
			good++
			continue
		}
		if code == kafka.None {
			code = checkEpoch(p.epoch, f.logs[i].Epoch())
		}
		if code == kafka.None {
			if !f.redirect(t, i) {
				good++
			}
			continue
		}
		f.logs[i], f.rows[i] = nil, f.failed(p, code)
		if code == kafka.NotLeaderOrFollower {
			f.rows[i].PreferredReadReplica = f.astray(t, p)
		}
		if code == kafka.UnknownTopicOrPartition || code == kafka.UnknownTopicID {
			f.rows[i].Aborted = []wire.Aborted{} // as Kafka
		}
	}
	return good > 0
}

// hint tells the client who leads what is refused here (KIP-951).
func (f *fetching) hint(resp *wire.FetchResponse) {
	if resp.Version < 12 {
		return
	}
	topics := f.s.o.Catalog.Topics()
	for i := range f.rows {
		if f.rows[i].Err != kafka.NotLeaderOrFollower && f.rows[i].Err != kafka.FencedLeaderEpoch {
			continue
		}
		if t, code := lookup(topics, resp.Version >= 13, f.parts[i].key.name, f.parts[i].key.id); code == kafka.None {
			var at wire.Endpoint
			if f.rows[i].Leader, at = f.s.elsewhere(t, f.rows[i].Partition); f.rows[i].Leader != nil && resp.Version >= 16 {
				resp.Endpoints = addEndpoint(resp.Endpoints, at)
			}
		}
	}
}

// checkEpoch compares a client's leader epoch with the partition's (KIP-320).
func checkEpoch(theirs int32, ours kafka.LeaderEpoch) kafka.ErrorCode {
	switch {
	case theirs > int32(ours):
		return kafka.UnknownLeaderEpoch
	case theirs >= 0 && theirs < int32(ours):
		return kafka.FencedLeaderEpoch
	}
	return kafka.None
}

func (f *fetching) failed(p *fetchPart, code kafka.ErrorCode) wire.FetchPartition {
	f.s.metrics.failed.WithLabelValues("Fetch", code.Error()).Inc()
	return wire.FetchPartition{Partition: p.key.partition, Err: code, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1, PreferredReadReplica: -1}
}

// read reads all partitions once. done means that waiting would be wrong: one
// of them has an error, or is to be read elsewhere.
func (f *fetching) read(ctx context.Context) (n int64, done bool) {
	left := int64(min(int(max(f.req.MaxBytes, 0)), f.s.o.Config().FetchMaxBytes))
	f.prefetch(ctx, left)
	f.full = false
	for i, l := range f.logs {
		if l == nil && !f.isFar(i) {
			done = true
			continue
		}
		limit := int(min(left, int64(max(f.parts[i].max, 0))))
		if f.full {
			limit = 0
		}
		got, ok := f.readOne(ctx, i, limit, n == 0)
		done = done || !ok
		n, left = n+got, left-got
	}
	return n, done
}

// prefetch reads together what lies together of several partitions.
func (f *fetching) prefetch(ctx context.Context, total int64) {
	asks := make([]partition.Ask, 0, len(f.logs))
	for i, l := range f.logs {
		if l != nil && l.Offsets().HighWatermark > f.parts[i].from {
			asks = append(asks, partition.Ask{Log: l, From: f.parts[i].from, Limit: int(max(f.parts[i].max, 0))})
		}
	}
	if len(asks) > 1 && !f.replica {
		partition.Prefetch(ctx, asks, total, kafka.Isolation(f.req.IsolationLevel), f.arena)
	}
	if len(f.leads) > 0 {
		f.prefetchFar(ctx)
	}
}

// readOne fills in one partition's row. Only the first batch of a response
// may be larger than the limit.
func (f *fetching) readOne(ctx context.Context, i, limit int, first bool) (got int64, ok bool) {
	switch {
	case f.isFar(i):
		return f.readFar(ctx, i, limit, first)
	case f.replica:
		return f.locateOne(ctx, i, limit, first)
	}
	p, l, iso := &f.parts[i], f.logs[i], kafka.Isolation(f.req.IsolationLevel)
	if limit <= 0 && !first {
		o := l.Offsets()
		if p.from < o.LogStart || p.from > o.Next {
			f.rows[i] = f.failed(p, outOfRange(ctx, l, p.from))
			return 0, false
		}
		f.rows[i] = row(p, partition.Result{HighWatermark: o.HighWatermark, LastStable: o.LastStable, LogStart: o.LogStart}, iso)
		return 0, true
	}
	res, err := l.Read(ctx, p.from, limit, iso, f.arena)
	if err != nil {
		code := codeOf(err)
		if code == kafka.OffsetOutOfRange {
			code = outOfRange(ctx, l, p.from)
		}
		f.rows[i] = f.failed(p, code)
		return 0, false
	}
	return f.fill(i, res, limit, first), true
}

// fill makes a row of what was read, and returns its bytes.
func (f *fetching) fill(i int, res partition.Result, limit int, first bool) (got int64) {
	p := &f.parts[i]
	got, f.next[i] = sizeOf(res.Bufs), res.Next
	if !first && got > int64(limit) {
		res.Bufs, res.Aborted, got = nil, nil, 0
		f.next[i] = p.from
		f.full = f.full || limit < int(p.max)
	}
	f.rows[i] = row(p, res, kafka.Isolation(f.req.IsolationLevel))
	return got
}

func sizeOf(bufs [][]byte) (n int64) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	return n
}

// outOfRange returns the error for an offset that the log does not hold. A
// consumer that is told so begins elsewhere; one that is ahead of the log may just have
// met a session that has been ended.
func outOfRange(ctx context.Context, l *partition.Log, from kafka.Offset) kafka.ErrorCode {
	if from >= l.Offsets().LogStart && l.Confirm(ctx) != nil {
		return kafka.NotLeaderOrFollower
	}
	return kafka.OffsetOutOfRange
}

func row(p *fetchPart, res partition.Result, iso kafka.Isolation) wire.FetchPartition {
	row := wire.FetchPartition{
		Partition: p.key.partition, HighWatermark: res.HighWatermark, LastStableOffset: res.LastStable, LogStartOffset: res.LogStart,
		PreferredReadReplica: -1, Records: res.Bufs,
	}
	if iso == kafka.ReadCommitted {
		row.Aborted = make([]wire.Aborted, len(res.Aborted))
		for i, a := range res.Aborted {
			row.Aborted[i] = wire.Aborted{ProducerID: a.ProducerID, FirstOffset: a.FirstOffset}
		}
	}
	return row
}

// signals returns what tells that a partition has changed.
func (f *fetching) signals() []<-chan struct{} {
	all := make([]<-chan struct{}, 0, len(f.logs))
	for _, l := range f.logs {
		if l != nil {
			all = append(all, l.Changed())
		}
	}
	return all
}

// maxSignals is how many partitions one fetch waits for; reflect.Select takes
// 65,536 cases. The others are read when one of these changes, or at max.wait.
const maxSignals = 60_000

// await waits for a signal; false means that the time or the connection is over.
func await(ctx context.Context, deadline *time.Timer, signals []<-chan struct{}) bool {
	if len(signals) == 1 {
		select {
		case <-signals[0]:
			return true
		case <-deadline.C:
		case <-ctx.Done():
		}
		return false
	}
	signals = signals[:min(len(signals), maxSignals)]
	cases := make([]reflect.SelectCase, 0, len(signals)+2)
	cases = append(cases,
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(deadline.C)},
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())})
	for _, ch := range signals {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ch)})
	}
	chosen, _, _ := reflect.Select(cases)
	return chosen >= 2
}

// topics groups the rows by topic, in the order asked for. In an incremental
// session only what changed is in it.
func (f *fetching) topics() ([]wire.FetchTopic, kafka.ErrorCode) {
	tell, code := f.session.finish(f.parts, f.rows)
	if code != kafka.None {
		return nil, code
	}
	var out []wire.FetchTopic
	for i := range f.parts {
		if tell != nil && !tell[i] {
			continue
		}
		key := &f.parts[i].key
		n := len(out)
		if n == 0 || out[n-1].Name != key.name || out[n-1].ID != key.id {
			out = append(out, wire.FetchTopic{Name: key.name, ID: key.id})
			n++
		}
		out[n-1].Partitions = append(out[n-1].Partitions, f.rows[i])
	}
	return out, kafka.None
}
