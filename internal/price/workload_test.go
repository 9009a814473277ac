package price

import (
	"math"
	"testing"
	"time"
)

func workload() Workload {
	return Workload{
		Rate: 20e6, FanOut: 2, Cold: 0.1, Retention: 7 * 24 * time.Hour, Compression: 0.4, Partitions: 100, Commits: 1,
		Brokers: 3, VCPU: 2, MemoryGB: 8, DiskGB: 100, Zones: 3, RackReads: true, WALInterval: 100 * time.Millisecond, Slots: 256,
	}
}

func line(t *testing.T, w Workload, name string) Line {
	t.Helper()
	bill, err := w.Bill()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range bill {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("no line %q", name)
	return Line{}
}

// The lines that can be worked out by hand.
func TestBill(t *testing.T) {
	w := workload()
	for _, c := range []struct {
		name     string
		quantity float64
		dollars  float64
	}{
		{"brokers: vCPU", 4380, 4380 * 0.03238},
		{"S3: records at rest", 20e6 * 604800 / 1e9 * 0.4, 4838.4 * 0.023},
		{"S3: PUT, WAL", 30 * 2_628_000, 30 * 2_628_000 * 0.005 / 1000},
		{"between zones: producers", 52_560 * 2. / 3, 52_560 * 2. / 3 * 0.02},
		{"between zones: consumers", 0, 0},
		{"DynamoDB: offset commits", 4 * 2_628_000, 4 * 2_628_000 * 0.625e-6},
	} {
		l := line(t, w, c.name)
		if math.Abs(l.Quantity-c.quantity) > 1e-6*c.quantity || math.Abs(l.Dollars-c.dollars) > 1e-6*c.dollars {
			t.Errorf("%+v, want %v and $%v", l, c.quantity, c.dollars)
		}
	}
}

// What changes what: and nothing else.
func TestBillFollows(t *testing.T) {
	base := workload()
	for _, c := range []struct {
		name   string
		change func(*Workload)
		factor float64
	}{
		{"S3: PUT, WAL", func(w *Workload) { w.WALInterval /= 2 }, 2},
		{"S3: PUT, WAL", func(w *Workload) { w.Rate /= 2 }, 1}, // by interval, as long as objects are small
		{"S3: records at rest", func(w *Workload) { w.Retention = 0 }, 365. / 7},
		{"S3: GET, cold reads", func(w *Workload) { w.Cold = 0 }, 0},
		{"between zones: producers", func(w *Workload) { w.Zones = 1 }, 0},
		{"between zones: consumers", func(w *Workload) { w.RackReads = false }, math.Inf(1)},
		{"DynamoDB: heartbeats", func(w *Workload) { w.Brokers = 6 }, 2},
	} {
		w := base
		c.change(&w)
		before, after := line(t, base, c.name).Dollars, line(t, w, c.name).Dollars
		if got := after / before; math.IsInf(c.factor, 1) && after <= before || !math.IsInf(c.factor, 1) && math.Abs(got-c.factor) > 1e-9 {
			t.Errorf("%s: %v times as much, want %v", c.name, got, c.factor)
		}
	}
}

func TestBillRefuses(t *testing.T) {
	for _, change := range []func(*Workload){
		func(w *Workload) { w.Rate = -1 }, func(w *Workload) { w.Cold = 1.1 }, func(w *Workload) { w.Compression = 0 },
		func(w *Workload) { w.Brokers = 0 }, func(w *Workload) { w.WALInterval = 0 },
	} {
		w := workload()
		change(&w)
		if bill, err := w.Bill(); err == nil {
			t.Errorf("%+v costs $%.2f", w, Sum(bill))
		}
	}
}
