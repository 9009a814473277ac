package group

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/catalog"
)

// Bounds on the series of one scrape. Groups are told in the order of their
// ids, so that it is always the same ones that are left out.
const (
	maxToldGroups  = 1000
	maxToldOffsets = 10_000
)

// metrics are the coordinator's: totals under the names of Kafka's
// group-coordinator-metrics and GroupMetadataManager, and of the groups in memory, which
// are those that somebody asked of lately, members and committed offsets. It is their
// collector.
type metrics struct {
	c                                *Coordinator
	rebalances, commits, expirations prometheus.Counter
	groups, members, offsets, untold *prometheus.Desc
}

func newMetrics(reg prometheus.Registerer, c *Coordinator) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "group", Name: name, Help: help})
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("varve_group_"+name, help, labels, nil)
	}
	m := &metrics{
		c:           c,
		rebalances:  counter("completed_rebalances_total", "Generations that groups have come to (Kafka: group-completed-rebalance-count)."),
		commits:     counter("offset_commits_total", "Offsets committed (Kafka: offset-commit-count)."),
		expirations: counter("offset_expirations_total", "Offsets that have expired (Kafka: offset-expiration-count)."),
		groups:      desc("groups", "Groups in memory, by state (Kafka: NumGroups, NumGroupsStable …).", "state"),
		members:     desc("members", "Members of a group.", "group"),
		offsets:     desc("committed_offset", "The offset that a group has committed.", "group", "topic", "partition"),
		untold:      desc("untold", "Groups in memory whose members or offsets are left out here, being too many."),
	}
	if reg != nil {
		reg.MustRegister(m, m.rebalances, m.commits, m.expirations)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.groups, m.members, m.offsets, m.untold} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	topics := m.c.o.Catalog.Topics()
	var states [len(stateNames)]int
	var told, offsets, untold int
	for _, e := range m.c.sorted() {
		state, members, committed := e.seen(topics, maxToldOffsets-offsets)
		if state < 0 {
			continue
		}
		states[state]++
		if told == maxToldGroups || committed == nil {
			untold++
			continue
		}
		told++
		offsets += len(committed)
		gauge(m.members, float64(members), e.id)
		for _, o := range committed {
			gauge(m.offsets, o.offset, e.id, o.topic, o.partition)
		}
	}
	for s, n := range states {
		gauge(m.groups, float64(n), State(s).String())
	}
	gauge(m.untold, float64(untold))
}

// sorted returns the entries by the ids of their groups.
func (c *Coordinator) sorted() []*entry {
	c.mu.Lock()
	all := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e)
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
	return all
}

// committed is a committed offset as it is told.
type committed struct {
	topic, partition string
	offset           float64
}

// seen returns what is told of a group; state -1: it is not there. Offsets are
// nil if there are more than limit.
func (e *entry) seen(topics *catalog.Topics, limit int) (state State, members int, offsets []committed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || e.group == nil || !e.group.Exists() {
		return -1, 0, nil
	}
	g := e.group
	if len(g.offsets) > limit {
		return g.state, len(g.members), nil
	}
	offsets = make([]committed, 0, len(g.offsets))
	for tp, o := range g.offsets {
		if t, ok := topics.ByID(tp.Topic); ok {
			offsets = append(offsets, committed{t.Name, strconv.Itoa(int(tp.Partition)), float64(o.Offset)})
		}
	}
	return g.state, len(g.members), offsets
}
