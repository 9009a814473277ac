package group_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/internal/kafka"
)

// TestMetrics: a group with a member and an offset, one that only commits, and
// their totals.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reg := newWorld(t), prometheus.NewRegistry()
		w.registry = reg
		c, stop := w.start()
		defer stop()
		j := stable(t, c)
		want(t, "commit", commit(t, c, commitReq("g", j.MemberID, 1, "t", 5)), kafka.None)
		want(t, "commit", commit(t, c, commitReq("simple", "", -1, "t", 7)), kafka.None)
		got := gather(t, reg)
		for name, v := range map[string]float64{
			"varve_group_groups{Stable}": 1, "varve_group_groups{Empty}": 1, "varve_group_groups{Dead}": 0,
			"varve_group_members{g}": 1, "varve_group_members{simple}": 0, "varve_group_untold": 0,
			"varve_group_committed_offset{g,0,t}": 5, "varve_group_committed_offset{simple,0,t}": 7,
			"varve_group_completed_rebalances_total": 1, "varve_group_offset_commits_total": 2,
		} {
			if g, ok := got[name]; !ok || g != v {
				t.Errorf("%s is %v, want %v; all: %v", name, g, v, got)
			}
		}
	})
}

// TestMetricsAreBounded: too many groups are not told one by one.
func TestMetricsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reg := newWorld(t), prometheus.NewRegistry()
		w.registry = reg
		c, stop := w.start()
		defer stop()
		for i := range group.MaxToldGroups + 10 {
			want(t, "commit", commit(t, c, commitReq(fmt.Sprintf("g%05d", i), "", -1, "t", 7)), kafka.None)
		}
		if got := gather(t, reg); got["varve_group_untold"] != 10 || got["varve_group_groups{Empty}"] != group.MaxToldGroups+10 {
			t.Errorf("%v left out of %v", got["varve_group_untold"], got["varve_group_groups{Empty}"])
		}
		want(t, "groups listed from memory", len(c.List(t.Context(), kmsg.NewPtrListGroupsRequest()).Groups), group.MaxToldGroups+10)
		time.Sleep(5 * time.Minute) // they leave memory
		want(t, "in memory", c.Loaded(), 0)
		want(t, "groups listed from the catalogue", len(c.List(t.Context(), kmsg.NewPtrListGroupsRequest()).Groups), group.MaxToldGroups+10)
	})
}

// gather returns the values by name and labels' values.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for i, l := range m.GetLabel() {
				name += map[bool]string{true: "{", false: ","}[i == 0] + l.GetValue()
			}
			if len(m.GetLabel()) > 0 {
				name += "}"
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}
