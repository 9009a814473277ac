package wire

import "sync/atomic"

// MaxAnswer bounds the bytes of the rows of one answer that tell more than
// they were asked with: a name of a few bytes for a group's members, say.
const MaxAnswer = 64 << 20

// Room is what an answer may still tell. The zero value has MaxAnswer bytes.
// It is safe for concurrent use.
type Room struct{ taken atomic.Int64 }

// Take takes n bytes; false: there are not so many left, and what would take
// them is left out of the answer, with an error in its place.
func (r *Room) Take(n int) bool { return r.taken.Add(int64(n)) <= MaxAnswer }
