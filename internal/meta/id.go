package meta

import (
	"crypto/rand"
	"encoding/hex"
)

// NewCommitID returns a new 128-bit random id in hexadecimal.
func NewCommitID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
