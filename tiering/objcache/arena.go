package objcache

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Pooled buffers have sizes of 1 or 1.5 times a power of two, so that at most
// a third of one lies idle.
const (
	minClassBits = 12 // 4 KiB
	maxClassBits = 26 // 64 MiB
	classes      = 2 * (maxClassBits - minClassBits)
)

// pools holds the free buffers of each class. It is the one variable of the
// package: free memory has no owner, and the collector empties it.
var pools [classes]sync.Pool

// classFor returns the smallest class of at least n bytes, and its size;
// class -1 for one that is not pooled.
func classFor(n int) (class, size int) {
	if n <= 1<<minClassBits {
		return 0, 1 << minClassBits
	}
	b := bits.Len(uint(n - 1)) // 1<<(b-1) < n <= 1<<b
	if size = 3 << (b - 2); n <= size {
		class = 2*(b-1-minClassBits) + 1
	} else {
		class, size = 2*(b-minClassBits), 1<<b
	}
	if class >= classes {
		return -1, n
	}
	return class, size
}

// buffer is pooled memory that several may hold.
type buffer struct {
	b     []byte
	class int
	refs  atomic.Int32 // holders; the last one to release it gives it back
}

// newBuffer returns a buffer of n bytes, arbitrary content, held once.
func newBuffer(n int) *buffer {
	class, size := classFor(n)
	if class >= 0 {
		if b, ok := pools[class].Get().(*buffer); ok {
			b.b = b.b[:n]
			b.refs.Store(1)
			return b
		}
	}
	b := &buffer{b: make([]byte, n, size), class: class}
	b.refs.Store(1)
	return b
}

func (b *buffer) hold(n int32) { b.refs.Add(n) }

func (b *buffer) release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("objcache: buffer released too often")
	case n == 0 && b.class >= 0:
		pools[b.class].Put(b)
	}
}

// Arena owns the buffers of one response, taken from a pool. What was read
// into it is found again by the next Read of it. It is used by one goroutine
// at a time.
type Arena struct{ held []held }

// held is a buffer, and the range that view of it is; no key: of no object.
type held struct {
	Range
	view []byte
	buf  *buffer
}

// NewArena returns an empty arena.
func NewArena() *Arena { return &Arena{} }

// Alloc returns n bytes with arbitrary content, valid until Release.
func (a *Arena) Alloc(n int) []byte {
	b := newBuffer(n)
	a.held = append(a.held, held{buf: b})
	return b.b
}

// adopt makes a the owner of one hold of a buffer. A nil arena keeps it for
// ever, so that the collector frees the memory.
func (a *Arena) adopt(h held) {
	if a != nil {
		a.held = append(a.held, h)
	}
}

// Empty tells whether the arena owns nothing: all that was read was in RAM.
func (a *Arena) Empty() bool { return len(a.held) == 0 }

// Take makes a the owner of what b owns, which is empty then.
func (a *Arena) Take(b *Arena) {
	a.held = append(a.held, b.held...)
	b.held = nil
}

// find returns a range that was read into a, or nil.
func (a *Arena) find(r Range) []byte {
	if a == nil {
		return nil
	}
	for i := range a.held {
		h := &a.held[i]
		if h.Key == r.Key && h.Off <= r.Off && r.Off+r.N <= h.Off+h.N {
			from := r.Off - h.Off
			return h.view[from : from+r.N : from+r.N]
		}
	}
	return nil
}

// Release gives all buffers back to the pool. No slice that came from Alloc
// or from a Cache.Read into this arena may be used afterwards. The arena may
// be used again.
func (a *Arena) Release() {
	for i := range a.held {
		a.held[i].buf.release()
		a.held[i] = held{}
	}
	a.held = a.held[:0]
}
