package retention

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta"
)

// counting counts the reads of logs' entries.
type counting struct {
	meta.Store
	reads int
}

func (c *counting) Query(ctx context.Context, pk string, r meta.Range) ([]meta.Item, bool, error) {
	if strings.HasPrefix(pk, "log/") {
		c.reads++
	}
	return c.Store.Query(ctx, pk, r)
}

// TestQuiet: a log of which nothing has to go is not read again until its oldest records
// expire, or its settings or start change.
func TestQuiet(t *testing.T) {
	const keep = 9 * time.Hour // retention.ms
	alter := func(r *rig, name, value string) {
		r.must(r.cat.AlterTopicConfigs(r.t.Context(), "t", func(c map[string]string) (map[string]string, error) {
			c[name] = value
			return c, nil
		}))
	}
	for _, tt := range []struct {
		name     string
		segments int
		configs  []string
		then     func(*rig) // after an hour less than retention.ms
		idle     int        // reads in that time, at most
		least    int        // and at least
		reads    bool       // in the next pass
		start    int64      // then
	}{
		{name: "until the oldest expire", segments: 3, idle: 1, least: 1, then: func(*rig) { time.Sleep(time.Hour) }, reads: true, start: 30},
		{name: "they do not yet", segments: 3, idle: 1, least: 1, then: func(r *rig) { r.seal() }},
		{name: "other settings", segments: 3, idle: 1, least: 1, then: func(r *rig) { alter(r, "retention.ms", "3600000") }, reads: true, start: 30},
		{name: "settings of something else", segments: 3, idle: 1, least: 1, then: func(r *rig) { alter(r, "max.message.bytes", "2000") }},
		{name: "DeleteRecords", segments: 3, idle: 1, least: 1, then: func(r *rig) { r.must(r.cat.SetLogStart(r.t.Context(), r.slot, r.tp, 10)) }, reads: true, start: 10},
		{name: "for ever", segments: 3, configs: []string{"retention.ms", "-1"}, idle: 1, least: 1, then: func(*rig) { time.Sleep(24 * time.Hour) }},
		{name: "no entries", idle: 17, least: 8, then: func(r *rig) { time.Sleep(time.Hour) }, reads: true},
		{name: "compacted as well", segments: 1, configs: []string{"cleanup.policy", "compact,delete"}, idle: 17, least: 8, then: func(r *rig) { time.Sleep(2 * time.Hour) }, reads: true, start: 10},
		{name: "by size, as it is", segments: 3, configs: []string{"retention.bytes", "300"}, idle: 100, least: 90, then: func(*rig) {}},
		{name: "by size, one more", segments: 3, configs: []string{"retention.bytes", "300"}, idle: 100, least: 90, then: func(r *rig) { r.seal() }, reads: true, start: 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, tt.segments, append([]string{"retention.ms", fmt.Sprint(keep.Milliseconds())}, tt.configs...)...)
				table := &counting{Store: r.meta}
				cfg, err := config.ParseBroker(nil)
				r.must(err)
				j, err := New(Options{
					Catalog: catalog.New(table), Store: r.store, Slots: slots, Holder: "broker-1",
					Config: func() *config.Broker { return cfg }, Interval: func() time.Duration { return interval },
				})
				r.must(err)
				turn := func() {
					t.Helper()
					time.Sleep(interval)
					_, err := j.Turn(t.Context())
					r.must(err)
				}
				for range (keep - time.Hour) / interval {
					turn()
				}
				if table.reads > tt.idle || table.reads < tt.least {
					t.Errorf("%d reads while nothing had to go, want %d to %d", table.reads, tt.least, tt.idle)
				}
				tt.then(r)
				before := table.reads
				turn()
				if read := table.reads > before; read != tt.reads && tt.idle < 90 {
					t.Errorf("%d reads after that", table.reads-before)
				}
				if got := int64(r.start()); got != tt.start {
					t.Errorf("the log starts at %d, want %d", got, tt.start)
				}
			})
		})
	}
}
