package objcache

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are a cache's counters since New, and its present sizes.
type Stats struct {
	RAMHits, RAMHitBytes    int64 // reads served from RAM
	DiskHits, DiskHitBytes  int64 // reads served from the disk layer
	Misses, MissBytes       int64 // reads of the store
	Shared                  int64 // reads that used an equal one's disk or store read
	Fills, FillBytes        int64
	Evictions               int64 // objects that left RAM for want of room
	DiskWrites, DiskDropped int64 // extents written, and those dropped because the queue was full or the disk failed
	DiskErrors              int64 // failed disk operations and wrong CRCs
	RAMBytes, DiskBytes     int64 // present sizes; of RAM with an overhead for each piece
	RAMObjects, DiskExtents int64
}

// Stats returns the cache's counters.
func (c *Cache) Stats() Stats {
	s := Stats{
		RAMHits: c.count.ramHits.Load(), RAMHitBytes: c.count.ramHitBytes.Load(),
		DiskHits: c.count.diskHits.Load(), DiskHitBytes: c.count.diskHitBytes.Load(),
		Misses: c.count.misses.Load(), MissBytes: c.count.missBytes.Load(),
		Shared: c.count.shared.Load(),
		Fills:  c.count.fills.Load(), FillBytes: c.count.fillBytes.Load(),
	}
	s.RAMBytes, s.RAMObjects, s.Evictions = c.ram.size()
	if c.disk != nil {
		c.disk.stats(&s)
	}
	return s
}

// register registers the cache's metrics.
func register(reg prometheus.Registerer, c *Cache) error {
	var errs []error
	counter := func(name, help string, value func(Stats) int64) {
		errs = append(errs, reg.Register(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Namespace: "varve", Subsystem: "objcache", Name: name, Help: help},
			func() float64 { return float64(value(c.Stats())) })))
	}
	gauge := func(name, help string, value func(Stats) int64) {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "varve", Subsystem: "objcache", Name: name, Help: help},
			func() float64 { return float64(value(c.Stats())) })))
	}
	counter("ram_hits_total", "Reads served from RAM.", func(s Stats) int64 { return s.RAMHits })
	counter("ram_hit_bytes_total", "Bytes served from RAM.", func(s Stats) int64 { return s.RAMHitBytes })
	counter("disk_hits_total", "Reads served from the disk layer.", func(s Stats) int64 { return s.DiskHits })
	counter("disk_hit_bytes_total", "Bytes served from the disk layer.", func(s Stats) int64 { return s.DiskHitBytes })
	counter("misses_total", "Reads of the object store.", func(s Stats) int64 { return s.Misses })
	counter("miss_bytes_total", "Bytes read from the object store.", func(s Stats) int64 { return s.MissBytes })
	counter("shared_total", "Reads that used the disk or store read of an equal one.", func(s Stats) int64 { return s.Shared })
	counter("evictions_total", "Objects that left RAM for want of room.", func(s Stats) int64 { return s.Evictions })
	counter("disk_writes_total", "Extents written to the disk layer.", func(s Stats) int64 { return s.DiskWrites })
	counter("disk_dropped_total", "Extents not written to the disk layer, because it was slow or failed.", func(s Stats) int64 { return s.DiskDropped })
	counter("disk_errors_total", "Failed operations and wrong checksums of the disk layer.", func(s Stats) int64 { return s.DiskErrors })
	gauge("ram_bytes", "Bytes in RAM.", func(s Stats) int64 { return s.RAMBytes })
	gauge("disk_bytes", "Bytes on the disk layer.", func(s Stats) int64 { return s.DiskBytes })
	return errors.Join(errs...)
}
