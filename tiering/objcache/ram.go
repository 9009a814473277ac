package objcache

import (
	"container/list"
	"slices"
	"sync"
)

// pieceOverhead is what a piece costs besides its data, in bytes; it counts
// towards the bound, so that small pieces are bounded too.
const pieceOverhead = 64

// ram is the RAM layer: whole fills, first in, first out.
type ram struct {
	limit int64

	mu      sync.Mutex
	objects map[string]*object
	order   *list.List // of *object, the oldest in front
	bytes   int64      // of all objects, with the overhead
	evicted int64
}

// object is what one Fill brought. pieces never change.
type object struct {
	key    string
	pieces []Piece
	bytes  int64
	elem   *list.Element
}

func newRAM(limit int64) *ram {
	return &ram{limit: limit, objects: make(map[string]*object), order: list.New()}
}

// fill keeps an object, in place of what there was of it.
func (r *ram) fill(key string, pieces []Piece) {
	o := &object{key: key, pieces: pieces}
	for _, p := range pieces {
		o.bytes += int64(len(p.Data)) + pieceOverhead
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.objects[key]; old != nil {
		r.remove(old)
	}
	if o.bytes > r.limit || len(pieces) == 0 {
		return
	}
	for r.bytes+o.bytes > r.limit {
		r.remove(r.order.Front().Value.(*object))
		r.evicted++
	}
	o.elem = r.order.PushBack(o)
	r.objects[key] = o
	r.bytes += o.bytes
}

// remove takes an object out, under the lock.
func (r *ram) remove(o *object) {
	r.order.Remove(o.elem)
	delete(r.objects, o.key)
	r.bytes -= o.bytes
}

func (r *ram) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.objects[key]; o != nil {
		r.remove(o)
	}
}

// read returns a range by reference, or nil when not all of it is there.
func (r *ram) read(key string, off, n int64) [][]byte {
	r.mu.Lock()
	o := r.objects[key]
	r.mu.Unlock()
	if o == nil {
		return nil
	}
	// The first piece that ends after off.
	first, _ := slices.BinarySearchFunc(o.pieces, off, func(p Piece, off int64) int {
		if p.Off+int64(len(p.Data)) <= off {
			return -1
		}
		return 1
	})
	last, end := first, off
	for ; last < len(o.pieces) && end < off+n; last++ {
		p := o.pieces[last]
		if p.Off > end {
			return nil // a gap
		}
		end = p.Off + int64(len(p.Data))
	}
	if end < off+n {
		return nil
	}
	bufs := make([][]byte, 0, last-first)
	for _, p := range o.pieces[first:last] {
		from := max(0, off-p.Off)
		to := min(int64(len(p.Data)), off+n-p.Off)
		bufs = append(bufs, p.Data[from:to:to])
	}
	return bufs
}

// size returns the layer's bytes and objects, and how many it has evicted.
func (r *ram) size() (bytes, objects, evicted int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes, int64(len(r.objects)), r.evicted
}
