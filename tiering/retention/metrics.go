package retention

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what a Job does.
type metrics struct {
	removed, bytes, deleted, offsets, txns, failures prometheus.Counter
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "varve", Subsystem: "retention", Name: name, Help: help})
	}
	return metrics{
		removed:  counter("segments_total", "Segment entries removed from the catalogue."),
		bytes:    counter("bytes_total", "Bytes of the objects of segments that retention removed."),
		deleted:  counter("objects_total", "Objects deleted."),
		offsets:  counter("group_offsets_total", "Committed offsets removed that had expired, of groups that nobody had loaded."),
		txns:     counter("transactional_ids_total", "Transactional ids removed that had expired."),
		failures: counter("failures_total", "Passes in which something failed, to be tried again."),
	}
}

func (m metrics) register(reg prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.removed, m.bytes, m.deleted, m.offsets, m.txns, m.failures} {
		errs = append(errs, reg.Register(c))
	}
	return errors.Join(errs...)
}
