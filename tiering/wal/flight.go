package wal

import (
	"context"
	"time"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
)

// flight is an object on its way.
type flight struct {
	object
	slices  []bundle.Slice
	targets []Target // of slices
	entries int
	bytes   int64     // of batches
	since   time.Time // when its first batch was appended
	cancel  context.CancelFunc

	landed  bool // the fields below are set
	outcome outcome
	err     error
}

// pieces returns the object's batches for the object cache.
func (f *flight) pieces() []objcache.Piece {
	out := make([]objcache.Piece, 0, f.entries)
	off := int64(bundle.HeaderLen)
	for _, b := range f.body[1 : len(f.body)-1] {
		out = append(out, objcache.Piece{Off: off, Data: b})
		off += int64(len(b))
	}
	return out
}

// packer makes flights of entries. It keeps its scratch from one to the next.
type packer struct {
	index map[sliceID]int
	slots []int // of each entry: which slice it goes to
	sizes []int // of each slice: entries
}

// sliceID is what has a slice of its own in an object. A partition that was
// closed and opened again in between has two targets.
type sliceID struct {
	target Target
	tp     kafka.TopicPartition
}

// pack builds one object of all entries: a slice for each partition, in the
// order of their first entries, each in the order of appending.
func (p *packer) pack(origin bundle.Origin, entries []Entry) *flight {
	f := &flight{entries: len(entries)}
	data := p.group(f, entries)
	batches, bytes := make([]bundle.Batch, len(entries)), make([][]byte, len(entries))
	for i, n := range p.sizes {
		data[i].Batches, batches = batches[:0:n], batches[n:]
		data[i].Data, bytes = bytes[:0:n], bytes[n:]
	}
	for i := range entries {
		d := &data[p.slots[i]]
		d.Batches = append(d.Batches, entries[i].Batch)
		d.Data = append(d.Data, entries[i].Data)
		f.bytes += int64(len(entries[i].Data))
	}
	body, placed, sum := bundle.WALBuffers(origin, data)
	f.object = newObject(bundle.KindWAL, origin, body, sum)
	f.slices = placed
	return f
}

// group finds the slices of the object and how many entries each has.
func (p *packer) group(f *flight, entries []Entry) (data []bundle.SliceData) {
	if p.index == nil {
		p.index = map[sliceID]int{}
	}
	defer clear(p.index) // nothing of it is kept in memory
	p.slots, p.sizes = p.slots[:0], p.sizes[:0]
	for i := range entries {
		e := &entries[i]
		id := sliceID{e.Target, e.TP}
		at, ok := p.index[id]
		if !ok {
			at = len(data)
			p.index[id] = at
			p.sizes = append(p.sizes, 0)
			f.targets = append(f.targets, e.Target)
			data = append(data, bundle.SliceData{Slot: e.Slot, TP: e.TP})
		}
		p.slots = append(p.slots, at)
		p.sizes[at]++
	}
	return data
}
