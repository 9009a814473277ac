package cold

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are what a Reader has done since New.
type counters struct {
	loads               atomic.Int64 // frames read and decompressed
	ahead               atomic.Int64 // of these, by the workers
	readBytes, rawBytes atomic.Int64 // of frames, as they lie and decompressed
	gone                atomic.Int64 // missing objects looked up anew
}

// register registers the Reader's metrics.
func (r *Reader) register(reg prometheus.Registerer) error {
	var errs []error
	counter := func(name, help string, value *atomic.Int64) {
		errs = append(errs, reg.Register(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Namespace: "varve", Subsystem: "cold", Name: name, Help: help},
			func() float64 { return float64(value.Load()) })))
	}
	counter("frames_total", "Frames of sealed segments read and decompressed.", &r.count.loads)
	counter("frames_ahead_total", "Frames that were fetched before a reader asked for them.", &r.count.ahead)
	counter("frame_bytes_total", "Bytes of frames read, as they lie in the object.", &r.count.readBytes)
	counter("frame_raw_bytes_total", "Bytes of frames read, decompressed.", &r.count.rawBytes)
	counter("resolved_again_total", "Missing objects that were looked up in the catalogue again.", &r.count.gone)
	errs = append(errs, reg.Register(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Namespace: "varve", Subsystem: "cold", Name: "ram_bytes", Help: "Bytes of decompressed frames in RAM."},
		func() float64 { return float64(r.frames.size()) })))
	return errors.Join(errs...)
}
