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
	age     int64      // of the newest
	bytes   int64      // of all objects, with the overhead
	evicted int64
}

// object is what one Fill or Carry brought. pieces never change.
type object struct {
	key    string
	pieces []Piece
	bytes  int64 // that count towards the bound: not those that another object has taken over
	age    int64 // the place in the order
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
	r.age++
	o.age, o.elem = r.age, r.order.PushBack(o)
	r.keep(o)
}

// keep takes an object in that is in the order already, under the lock.
func (r *ram) keep(o *object) {
	r.objects[o.key] = o
	for r.bytes += o.bytes; r.bytes > r.limit; r.evicted++ {
		r.remove(r.order.Front().Value.(*object))
	}
}

// carry makes an object of what there is of others, behind the newest of them in the order.
//
//	order   [ wal 1 ][ wal 2 ][ wal 3 ]                 wal 1 and 2 go before the checkpoint does,
//	        [ wal 1 ][ wal 2 ][ ckpt ][ wal 3 ]         so what they share is in memory no longer than it counts
func (r *ram) carry(key string, parts []Carried) {
	o := &object{key: key}
	r.mu.Lock()
	defer r.mu.Unlock()
	var newest *object
	for _, p := range parts {
		from := r.objects[p.From.Key]
		if from == nil {
			continue
		}
		off := p.Off
		for _, b := range from.read(p.From.Off, p.From.N) {
			o.pieces = append(o.pieces, Piece{off, b})
			o.bytes += int64(len(b)) + pieceOverhead
			off += int64(len(b))
			n := min(from.bytes, int64(len(b)))
			from.bytes -= n
			r.bytes -= n
			if newest == nil || newest.age < from.age {
				newest = from
			}
		}
	}
	if newest == nil {
		return
	}
	if old := r.objects[key]; old != nil {
		r.remove(old)
	}
	o.age, o.elem = newest.age, r.order.InsertAfter(o, newest.elem)
	r.keep(o)
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
	return o.read(off, n)
}

func (o *object) read(off, n int64) [][]byte {
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
