package partition

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/kafka"
)

// Metrics counts what the logs of a session do, all partitions together. A nil
// *Metrics counts nothing.
type Metrics struct {
	batches, bytes, duplicates prometheus.Counter
	rejects                    *prometheus.CounterVec // by error code
	hotBytes, sealedBytes      prometheus.Counter
	reresolves                 prometheus.Counter
}

// NewMetrics registers the counters, and gauges over the logs of set; reg may
// be nil.
func NewMetrics(reg prometheus.Registerer, set *Set) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "partition", Name: name, Help: help})
	}
	m := &Metrics{
		batches:    counter("appended_batches_total", "Record batches appended."),
		bytes:      counter("appended_bytes_total", "Bytes of record batches appended."),
		duplicates: counter("duplicate_batches_total", "Batches of idempotent producers that were appended before."),
		rejects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "varve", Subsystem: "partition", Name: "rejected_batches_total", Help: "Batches refused, by Kafka error code."}, []string{"code"}),
		hotBytes:    counter("read_hot_bytes_total", "Bytes read by offset from the hot index."),
		sealedBytes: counter("read_sealed_bytes_total", "Bytes read by offset from sealed segments."),
		reresolves:  counter("read_resolved_again_total", "Reads whose object had gone, resolved again."),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.batches, m.bytes, m.duplicates, m.rejects, m.hotBytes, m.sealedBytes, m.reresolves)
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "varve", Subsystem: "partition", Name: name, Help: help}, value))
	}
	gauge("open", "Partitions that this broker has open.", func() float64 { return float64(set.Len()) })
	gauge("hot_bytes", "Bytes of slices that are in no sealed segment.", func() float64 { b, _ := set.hotSize(); return float64(b) })
	gauge("hot_slices", "Slices that are in no sealed segment.", func() float64 { _, n := set.hotSize(); return float64(n) })
	return m
}

func (s *Set) hotSize() (bytes int64, slices int) {
	for _, l := range s.All() {
		b, n := l.Size()
		bytes, slices = bytes+b, slices+n
	}
	return bytes, slices
}

func (m *Metrics) appended(bytes int) {
	if m != nil {
		m.batches.Inc()
		m.bytes.Add(float64(bytes))
	}
}

func (m *Metrics) duplicate() {
	if m != nil {
		m.duplicates.Inc()
	}
}

func (m *Metrics) rejected(err error) {
	var code kafka.ErrorCode
	if m != nil && errors.As(err, &code) {
		m.rejects.WithLabelValues(strconv.Itoa(int(code))).Inc()
	}
}

func (m *Metrics) read(bufs [][]byte, sealed bool) {
	if m == nil {
		return
	}
	var n int
	for _, b := range bufs {
		n += len(b)
	}
	if sealed {
		m.sealedBytes.Add(float64(n))
	} else {
		m.hotBytes.Add(float64(n))
	}
}

func (m *Metrics) resolved() {
	if m != nil {
		m.reresolves.Inc()
	}
}
