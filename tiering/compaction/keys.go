package compaction

import (
	"crypto/sha256"

	"github.com/varvelog/varve/internal/kafka"
)

// keyBytes is about what one key takes in a Go map of 24 bytes an entry, free
// room included.
const keyBytes = 48

// keys has the last offset of each key of a dirty range, as far as memory
// allows. Keys are known by 128 bits of their SHA-256, as Kafka's
// SkimpyOffsetMap knows them by their MD5: nobody can make two alike.
type keys struct {
	limit   int // entries
	offsets map[[16]byte]kafka.Offset
}

// newKeys returns a map that takes about bytes of memory when it is full.
func newKeys(bytes int64) *keys {
	return &keys{limit: int(max(bytes/keyBytes, 1)), offsets: make(map[[16]byte]kafka.Offset)}
}

func hashOf(key []byte) (h [16]byte) {
	sum := sha256.Sum256(key)
	copy(h[:], sum[:])
	return h
}

// put notes the offset of a key; offsets ascend. false: there is no room for
// another key.
func (k *keys) put(key []byte, off kafka.Offset) bool {
	h := hashOf(key)
	if len(k.offsets) >= k.limit {
		if _, ok := k.offsets[h]; !ok {
			return false
		}
	}
	k.offsets[h] = off
	return true
}

// later tells whether the key has a record behind an offset.
func (k *keys) later(key []byte, off kafka.Offset) bool {
	last, ok := k.offsets[hashOf(key)]
	return ok && last > off
}
