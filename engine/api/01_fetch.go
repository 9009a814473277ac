package api

import (
	"context"
	"reflect"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
	"github.com/varvelog/varve/tiering/objcache"
)

// Fetch, versions 4 to 18.
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
	name    string
	from    kafka.Offset
	max     int32
	epoch   int32 // the leader epoch that the client knows; -1: none
	session *sessionPart
}

// fetchKey names a partition as the client does: by id from version 13, by
// name before.
type fetchKey struct {
	name      string
	id        kafka.TopicID
	partition int32
}

func (s *Server) fetch(poll context.Context, r *request) reply {
	req := r.msg.(*kmsg.FetchRequest)
	resp := &wire.FetchResponse{Version: r.Version, CorrelationID: r.CorrelationID}
	session, parts, code := s.sessions.begin(req)
	if code != kafka.None {
		resp.Err = code
		return s.fetched(r, resp, nil)
	}
	if session != nil {
		defer session.mu.Unlock()
		resp.SessionID = session.id
	}
	arena := objcache.NewArena()
	f := fetching{s: s, req: req, version: r.Version, parts: parts, arena: arena, rows: make([]wire.FetchPartition, len(parts))}
	f.run(poll)
	resp.Topics = f.topics(session)
	return s.fetched(r, resp, arena)
}

func (s *Server) fetched(r *request, resp *wire.FetchResponse, arena *objcache.Arena) reply {
	c := r.conn
	out := reply{}
	out.bufs, c.scratch = resp.AppendTo(c.bufs[:0], c.scratch)
	if arena != nil {
		out.release = arena.Release
	}
	return out
}

// fetching is one fetch under way.
type fetching struct {
	s       *Server
	req     *kmsg.FetchRequest
	version int16
	parts   []fetchPart
	arena   *objcache.Arena
	rows    []wire.FetchPartition
	logs    []*partition.Log // of parts; nil for an error
}

// run reads until there is enough, an error, or no more time.
func (f *fetching) run(ctx context.Context) {
	f.resolve()
	deadline := time.NewTimer(time.Duration(max(f.req.MaxWaitMillis, 0)) * time.Millisecond)
	defer deadline.Stop()
	for {
		signals := f.signals()
		n, done := f.read(ctx)
		if done || n >= int64(f.req.MinBytes) || f.req.MaxWaitMillis <= 0 {
			f.s.metrics.fetched.Add(float64(n))
			return
		}
		if !await(ctx, deadline, signals) {
			f.s.metrics.fetched.Add(float64(n))
			return
		}
		f.arena.Release()
	}
}

// resolve finds the logs.
func (f *fetching) resolve() {
	topics := f.s.o.Catalog.Topics()
	f.logs = make([]*partition.Log, len(f.parts))
	for i := range f.parts {
		p := &f.parts[i]
		t, code := lookup(topics, f.version >= 13, p.key.name, p.key.id)
		if code == kafka.None {
			p.name = t.Name
			f.logs[i], code = f.s.log(t, p.key.partition)
		}
		if code == kafka.None && p.epoch >= 0 {
			code = checkEpoch(p.epoch, f.logs[i].Epoch())
		}
		f.rows[i] = failedRow(p.key.partition, code)
		if code != kafka.None {
			f.logs[i] = nil
			if code == kafka.UnknownTopicOrPartition || code == kafka.UnknownTopicID {
				f.rows[i].Aborted = []wire.Aborted{}
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

func failedRow(p int32, code kafka.ErrorCode) wire.FetchPartition {
	return wire.FetchPartition{Partition: p, Err: code, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1, PreferredReadReplica: -1}
}

// read reads all partitions once. done means that waiting would be wrong.
func (f *fetching) read(ctx context.Context) (n int64, done bool) {
	left := int64(f.s.o.Config().FetchMaxBytes)
	if f.req.MaxBytes > 0 { // 0 bytes are meant as no limit by old clients
		left = min(left, int64(f.req.MaxBytes))
	}
	iso := kafka.Isolation(f.req.IsolationLevel)
	for i, l := range f.logs {
		if l == nil {
			done = done || f.rows[i].Err != kafka.None
			continue
		}
		p := &f.parts[i]
		limit := min(left, int64(p.max))
		if n > 0 && limit <= 0 {
			f.rows[i] = f.watermarks(l, p.key.partition, iso)
			continue
		}
		row, err := f.readOne(ctx, l, p, max(int(limit), 0), iso)
		if err != nil {
			row = failedRow(p.key.partition, codeOf(err))
			f.s.metrics.failed.WithLabelValues("Fetch", row.Err.Error()).Inc()
			done = true
		}
		var got int64
		for _, b := range row.Records {
			got += int64(len(b))
		}
		if n > 0 && got > limit { // only the first batch of all may pass the limits
			row.Records, got = nil, 0
		}
		f.rows[i] = row
		n, left = n+got, left-got
	}
	return n, done
}

func (f *fetching) readOne(ctx context.Context, l *partition.Log, p *fetchPart, limit int, iso kafka.Isolation) (wire.FetchPartition, error) {
	res, err := l.Read(ctx, p.from, limit, iso, f.arena)
	if err != nil {
		return wire.FetchPartition{}, err
	}
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
	return row, nil
}

func (f *fetching) watermarks(l *partition.Log, p int32, iso kafka.Isolation) wire.FetchPartition {
	o := l.Offsets()
	row := wire.FetchPartition{Partition: p, HighWatermark: o.HighWatermark, LastStableOffset: o.LastStable, LogStartOffset: o.LogStart, PreferredReadReplica: -1}
	if iso == kafka.ReadCommitted {
		row.Aborted = []wire.Aborted{}
	}
	return row
}

// signals returns what tells that a partition has changed. They are taken
// before the read, so that nothing is missed.
func (f *fetching) signals() []<-chan struct{} {
	if f.req.MaxWaitMillis <= 0 {
		return nil
	}
	all := make([]<-chan struct{}, 0, len(f.logs))
	for _, l := range f.logs {
		if l != nil {
			all = append(all, l.Changed())
		}
	}
	return all
}

// await waits for a signal; false means that the time or the connection is over.
func await(ctx context.Context, deadline *time.Timer, signals []<-chan struct{}) bool {
	if len(signals) <= 1 {
		var one <-chan struct{}
		if len(signals) == 1 {
			one = signals[0]
		}
		select {
		case <-one:
			return true
		case <-deadline.C:
		case <-ctx.Done():
		}
		return false
	}
	cases := make([]reflect.SelectCase, 0, len(signals)+2)
	cases = append(cases,
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(deadline.C)},
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())})
	for _, ch := range signals[:min(len(signals), 60_000)] { // reflect.Select takes 65,536
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ch)})
	}
	chosen, _, _ := reflect.Select(cases)
	return chosen >= 2
}

// topics groups the rows by topic, in the order asked for. In an incremental
// session only what changed is in it.
func (f *fetching) topics(session *fetchSession) []wire.FetchTopic {
	var out []wire.FetchTopic
	for i := range f.parts {
		p, row := &f.parts[i], &f.rows[i]
		if session != nil && p.session != nil {
			changed := p.session.update(row)
			if session.incremental && !changed {
				continue
			}
		}
		n := len(out)
		if n == 0 || out[n-1].Name != p.key.name || out[n-1].ID != p.key.id {
			out = append(out, wire.FetchTopic{Name: p.key.name, ID: p.key.id})
			n++
		}
		out[n-1].Partitions = append(out[n-1].Partitions, *row)
	}
	return out
}
