package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's, under kafka_network and kafka_server names.
type metrics struct {
	connections prometheus.Gauge
	refused     prometheus.Counter
	in, out     prometheus.Counter
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	messages    prometheus.Counter
	produced    prometheus.Counter
	fetched     prometheus.Counter
	failed      *prometheus.CounterVec
	redirected  prometheus.Counter
	followed    prometheus.Counter
	asksFailed  prometheus.Counter

	byKey map[int16]observer
}

type observer struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

func newMetrics(reg prometheus.Registerer, table []api) *metrics {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "varve_connections", Help: "Open client connections."}),
		refused:     prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_connections_refused_total", Help: "Connections over max.connections."}),
		in:          prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_network_bytes_in_total", Help: "Bytes of requests."}),
		out:         prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_network_bytes_out_total", Help: "Bytes of responses."}),
		requests:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "varve_requests_total", Help: "Requests answered, by API."}, []string{"api"}),
		seconds:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "varve_request_seconds", Help: "From a request's arrival to its answer, by API.", Buckets: prometheus.ExponentialBuckets(0.0005, 3, 10)}, []string{"api"}),
		messages:    prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_messages_in_total", Help: "Records appended."}),
		produced:    prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_bytes_in_total", Help: "Bytes of record batches appended."}),
		fetched:     prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_bytes_out_total", Help: "Bytes of record batches fetched."}),
		failed:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "varve_failed_partitions_total", Help: "Partitions of Produce and Fetch answered with an error, by API and error."}, []string{"api", "error"}),
		redirected:  prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_follower_redirects_total", Help: "Partitions of Fetch for which a consumer was sent to a broker in its rack."}),
		followed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_follower_bytes_out_total", Help: "Bytes of record batches fetched from here that other brokers lead; part of varve_bytes_out_total."}),
		asksFailed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "varve_follower_asks_failed_total", Help: "Questions to leaders that were not answered; their consumers go back to the leader."}),
		byKey:       make(map[int16]observer),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.refused, m.in, m.out, m.requests, m.seconds, m.messages, m.produced, m.fetched, m.failed, m.redirected, m.followed, m.asksFailed)
	}
	for _, a := range table {
		m.byKey[a.key] = observer{m.requests.WithLabelValues(a.name), m.seconds.WithLabelValues(a.name)}
	}
	return m
}

func (m *metrics) observe(key int16, d time.Duration) {
	if o, ok := m.byKey[key]; ok {
		o.count.Inc()
		o.seconds.Observe(d.Seconds())
	}
}
