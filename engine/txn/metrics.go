package txn

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the coordinator's.
type metrics struct {
	ends     *prometheus.CounterVec
	took     prometheus.Histogram
	timedOut prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Coordinator) *metrics {
	m := &metrics{
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "varve", Subsystem: "txn", Name: "completed_total", Help: "Transactions that were ended here, by what became of them.",
		}, []string{"result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "varve", Subsystem: "txn", Name: "complete_seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
			Help: "From a transaction's decision until all that it has written to has its marker.",
		}),
		timedOut: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "varve", Subsystem: "txn", Name: "timed_out_total", Help: "Transactions that were aborted because their producers had left them open.",
		}),
	}
	ending := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "varve", Subsystem: "txn", Name: "ending", Help: "Transactions that are decided, and being ended here.",
	}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(len(c.ending))
	})
	if reg != nil {
		reg.MustRegister(m.ends, m.took, m.timedOut, ending)
	}
	return m
}

// ended counts a transaction that has been ended.
func (m *metrics) ended(commit bool, took time.Duration) {
	result := "abort"
	if commit {
		result = "commit"
	}
	m.ends.WithLabelValues(result).Inc()
	m.took.Observe(took.Seconds())
}
