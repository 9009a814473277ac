package objcache

// Arena owns the buffers of one response, taken from a pool. It is used by one
// goroutine at a time.
type Arena struct{}

// NewArena returns an empty arena.
func NewArena() *Arena { return &Arena{} }

// Alloc returns n bytes with arbitrary content, valid until Release.
func (a *Arena) Alloc(n int) []byte { return make([]byte, n) }

// Release gives all buffers back to the pool. No slice that came from Alloc
// or from a Cache.Read into this arena may be used afterwards. The arena may
// be used again.
func (a *Arena) Release() {}
