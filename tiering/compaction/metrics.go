package compaction

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what a Job does. What it reads in a second of work, beside
// what producers of compacted topics write, is its capacity.
type metrics struct {
	records, left, read, written, replaced, merged, failures prometheus.Counter
	dirty                                                    prometheus.Gauge
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "compaction", Name: name, Help: help})
	}
	return metrics{
		records:  counter("records_total", "Records that compaction has read."),
		left:     counter("records_left_total", "Records that were left of them."),
		read:     counter("read_bytes_total", "Bytes of objects that compaction has read."),
		written:  counter("written_bytes_total", "Bytes of objects that compaction has written."),
		replaced: counter("segments_total", "Segment entries that compaction has replaced."),
		merged:   counter("merged_segments_total", "Small ones of them, of logs that keep all their records."),
		failures: counter("failures_total", "Turns in which something failed, to be tried again."),
		dirty: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "varve", Subsystem: "compaction", Name: "dirty_bytes", Help: "Bytes of batches in sealed segments of compacted topics that wait for compaction."}),
	}
}

func (m metrics) register(reg prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.records, m.left, m.read, m.written, m.replaced, m.merged, m.failures, m.dirty} {
		errs = append(errs, reg.Register(c))
	}
	return errors.Join(errs...)
}

func (m metrics) add(s PassStats) {
	m.records.Add(float64(s.Records))
	m.left.Add(float64(s.Left))
	m.read.Add(float64(s.Read))
	m.written.Add(float64(s.Written))
	m.replaced.Add(float64(s.Replaced))
	m.merged.Add(float64(s.Merged))
}
