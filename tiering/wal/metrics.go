package wal

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what a Writer does.
type Metrics struct {
	flushes, bytes, retries, hedged prometheus.Counter
	latency                         prometheus.Histogram
	pending, inFlight               prometheus.Gauge
}

// NewMetrics makes the metrics and registers them with reg (nil: nowhere).
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "wal", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "varve", Subsystem: "wal", Name: name, Help: help})
	}
	m := &Metrics{
		flushes: counter("objects_total", "WAL objects that became durable."),
		bytes:   counter("bytes_total", "Bytes of the WAL objects that became durable."),
		retries: counter("put_retries_total", "PUTs of WAL objects that were repeated because their outcome was not known."),
		hedged:  counter("put_hedged_total", "PUTs of WAL objects that were sent a second time because the first was slow."),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "varve", Subsystem: "wal", Name: "put_seconds", Help: "Duration of the PUTs of WAL objects that succeeded.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		pending:  gauge("pending_bytes", "Bytes appended and not yet durable, as of the newest durable object."),
		inFlight: gauge("in_flight", "PUTs of WAL objects in flight."),
	}
	if reg != nil {
		reg.MustRegister(m.flushes, m.bytes, m.retries, m.hedged, m.latency, m.pending, m.inFlight)
	}
	return m
}
