package broker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/engine/slot"
)

// register registers what says whether this broker can do its work: by the
// session of the moment, so that numbers go on when one ends and another begins.
func (b *Broker) register(reg prometheus.Registerer) {
	gauge := func(name, help string, value func(h slot.Health) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "varve", Name: name, Help: help}, func() float64 {
			m := b.manager.Load()
			if m == nil {
				return 0
			}
			return value(m.Health())
		}))
	}
	gauge("session_epoch", "Epoch of this broker's session: it grows when the broker starts, or was fenced.", func(slot.Health) float64 {
		return float64(b.manager.Load().Session().ID.Epoch)
	})
	gauge("session_live", "Live sessions that this broker sees, with its own.", func(h slot.Health) float64 { return float64(h.Live) })
	gauge("session_heartbeat_age_seconds", "Since this broker's heartbeat was renewed: above broker.session.timeout.ms others take its slots. It grows while the catalogue is away, or a PUT waits for that long.", func(h slot.Health) float64 { return age(h.Renewed) })
	gauge("slot_owned", "Slots that this broker holds.", func(h slot.Health) float64 { return float64(h.Owned) })
	gauge("slot_target", "Slots that this broker should hold.", func(h slot.Health) float64 { return float64(h.Target) })
	gauge("slot_dormant", "Slots of which nothing is in memory, since nobody asks for their partitions.", func(h slot.Health) float64 { return float64(h.Dormant) })
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "varve", Name: "slot_lulls_total", Help: "Times that a slot has become dormant, in this session."}, func() float64 {
		m := b.manager.Load()
		if m == nil {
			return 0
		}
		return float64(m.Health().Lulls)
	}))
	gauge("wal_oldest_wait_seconds", "Since when the oldest PUT of the WAL is under way: it grows while the object store is away.", func(h slot.Health) float64 { return age(h.OldestPut) })
	gauge("wal_backlog_ratio", "WAL that waits to be trimmed, in parts of wal.backlog.max.bytes, or of the room on the disk if that is less. At 1 produce is refused, retriably; it grows while the catalogue is away.", func(h slot.Health) float64 { return h.Backlog })
}

// age returns the seconds since a time; 0: there was none.
func age(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return time.Since(at).Seconds()
}
