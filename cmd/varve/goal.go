package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// goal is what there is to read until the ends that the partitions had in the
// beginning. It is empty when all of it has been read.
type goal struct {
	cl    *kgo.Client
	group string // "": none
	left  map[string]map[int32]*span
}

// span is what is left of a partition.
type span struct{ next, end int64 }

// idle is how long nothing comes until one looks who else has read it.
const idle = time.Second

// newGoal returns what there is to read of topics from a place on, or where a group stands.
func newGoal(ctx context.Context, cl *kgo.Client, topics []string, from place, f *consumeFlags) (*goal, error) {
	adm := kadm.NewClient(cl)
	list := adm.ListEndOffsets
	if f.committed {
		list = adm.ListCommittedOffsets
	}
	ends, err := list(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	starts, err := listAt(ctx, adm, from, topics)
	if err != nil {
		return nil, err
	}
	var committed kadm.OffsetResponses
	if f.group != "" {
		if committed, err = adm.FetchOffsets(ctx, f.group); err != nil {
			return nil, err
		}
	}
	g := &goal{cl: cl, group: f.group, left: make(map[string]map[int32]*span)}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		s := &span{start.Offset, o.Offset}
		if c, ok := committed.Lookup(o.Topic, o.Partition); ok && c.At >= 0 {
			s.next = c.At
		}
		if s.next >= s.end || f.partition >= 0 && o.Partition != f.partition {
			return
		}
		if g.left[o.Topic] == nil {
			g.left[o.Topic] = make(map[int32]*span)
		}
		g.left[o.Topic][o.Partition] = s
	})
	return g, nil
}

// reached tells that a partition was read up to next.
func (g *goal) reached(topic string, partition int32, next int64) {
	s, ok := g.left[topic][partition]
	if !ok {
		return
	}
	if s.next = max(s.next, next); s.next < s.end {
		return
	}
	if delete(g.left[topic], partition); len(g.left[topic]) == 0 {
		delete(g.left, topic)
	}
}

// poll polls. Where nothing comes, other members of the group may have read it.
func (g *goal) poll(ctx context.Context) (kgo.Fetches, error) {
	if g.group == "" {
		return g.cl.PollFetches(ctx), nil
	}
	short, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	fetches := g.cl.PollFetches(short)
	if short.Err() == nil || ctx.Err() != nil || fetches.NumRecords() > 0 {
		return fetches, nil
	}
	committed, err := kadm.NewClient(g.cl).FetchOffsets(ctx, g.group)
	committed.Each(func(o kadm.OffsetResponse) { g.reached(o.Topic, o.Partition, o.At) })
	return nil, err
}
