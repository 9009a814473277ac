package member

import (
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// loads returns what owners are asked for, each rate changed by up to noise percent.
func loads(t *rapid.T, owners []catalog.Owner, rates []int64, noise int) map[catalog.SessionID]catalog.Load {
	of := make(map[catalog.SessionID]map[kafka.Slot]int64)
	for s, o := range owners {
		if of[o.Session] == nil {
			of[o.Session] = make(map[kafka.Slot]int64)
		}
		of[o.Session][kafka.Slot(s)] = rates[s] * int64(100+rapid.IntRange(-noise, noise).Draw(t, "noise")) / 100
	}
	all := make(map[catalog.SessionID]catalog.Load)
	for id, r := range of {
		all[id] = NewLoad(r)
	}
	return all
}

// TestRebalance: whatever slots are asked for, balance comes to rest after few moves, moves no more than a step
// may, keeps the numbers even, and never makes the busiest broker busier; noise moves nothing back and forth.
func TestRebalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		brokers := rapid.IntRange(2, 6).Draw(t, "brokers")
		var ids []int32
		for i := range brokers {
			ids = append(ids, int32(i+1))
		}
		all := nodes(ids...)
		slots := brokers * rapid.IntRange(10, 40).Draw(t, "slots")
		rates := make([]int64, slots)
		for s := range rates {
			if rapid.IntRange(0, 4).Draw(t, "busy") == 0 {
				rates[s] = rapid.Int64Range(0, 50<<20).Draw(t, "rate")
			}
		}
		owners := make([]catalog.Owner, slots)
		place := func(pins map[kafka.Slot]int32) (moved int) {
			for s, id := range Assign(all, owners, pins) {
				if owners[s].Session != id || owners[s].Epoch < 0 {
					moved++
				}
				owners[s] = catalog.Owner{Session: id}
			}
			return moved
		}
		for s := range owners {
			owners[s].Epoch = -1
		}
		place(nil)
		top := func() (n int64) {
			for _, l := range loads(t, owners, rates, 0) {
				n = max(n, l.Total)
			}
			return n
		}
		steps, noise := 0, rapid.SampledFrom([]int{0, 3}).Draw(t, "noisy")
		for ; ; steps++ {
			if steps > 40 {
				t.Fatal("no rest in 40 steps")
			}
			before := top()
			moves := Rebalance(all, owners, nil, loads(t, owners, rates, noise))
			if len(moves) == 0 {
				break
			}
			if moved := place(moves); moved > 2*swapsPerStep || moved != len(moves) {
				t.Fatalf("%d slots moved for %v", moved, moves)
			}
			if after := top(); after > before {
				t.Fatalf("%v: the busiest has %d, it had %d", moves, after, before)
			}
			if n := place(nil); n != 0 {
				t.Fatalf("%d slots move back", n)
			}
		}
		again := 0 // a new draw of the noise may cross the threshold, once
		for range 10 {
			if moves := Rebalance(all, owners, nil, loads(t, owners, rates, 3)); len(moves) > 0 {
				again++
				place(moves)
			}
		}
		if again > 2 {
			t.Fatalf("%d steps more, of noise alone", again)
		}
	})
}

// TestRebalanceOnce: the cases that a rule of thumb would say.
func TestRebalanceOnce(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name  string
		rates map[kafka.Slot]int64
		pins  map[kafka.Slot]int32
		want  map[kafka.Slot]int32
	}{
		{"idle", nil, nil, map[kafka.Slot]int32{}},
		{"little is not worth it", map[kafka.Slot]int64{0: mib / 2}, nil, map[kafka.Slot]int32{}},
		{"one busy slot cannot be divided", map[kafka.Slot]int64{0: 90 * mib}, nil, map[kafka.Slot]int32{}},
		{"two busy slots of one", map[kafka.Slot]int64{0: 40 * mib, 2: 30 * mib}, nil, map[kafka.Slot]int32{0: 2, 1: 1}},
		{"a pinned one stays", map[kafka.Slot]int64{0: 40 * mib, 2: 30 * mib}, map[kafka.Slot]int32{2: 1}, map[kafka.Slot]int32{0: 2, 1: 1}},
		{"even enough", map[kafka.Slot]int64{0: 30 * mib, 2: 25 * mib, 1: 40 * mib}, nil, map[kafka.Slot]int32{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := nodes(1, 2)
			today := owners("1 2 1 2 1 2")
			load := make(map[catalog.SessionID]catalog.Load)
			for i, n := range all {
				mine := make(map[kafka.Slot]int64)
				for s, r := range c.rates {
					if int(s)%2 == i {
						mine[s] = r
					}
				}
				load[n.Session] = NewLoad(mine)
			}
			if got := Rebalance(all, today, c.pins, load); !maps.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
