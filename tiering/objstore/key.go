package objstore

import (
	"fmt"
	"strings"
)

// Limits of keys.
const (
	MaxKeyLen     = 900 // bytes; S3 allows 1,024, the rest is for a prefix
	MaxSegmentLen = 255 // bytes between two '/'; NAME_MAX of file systems
)

// ValidateKey returns an error that wraps ErrInvalidKey unless the key has the
// form that Store asks for.
func ValidateKey(key string) error {
	if len(key) > MaxKeyLen {
		return fmt.Errorf("%w: %d bytes long, at most %d are allowed", ErrInvalidKey, len(key), MaxKeyLen)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." || len(segment) > MaxSegmentLen {
			return fmt.Errorf("%w: segment %q of %q", ErrInvalidKey, segment, key)
		}
	}
	for i := range len(key) {
		if c := key[i]; !validByte(c) {
			return fmt.Errorf("%w: byte %q in %q", ErrInvalidKey, c, key)
		}
	}
	return nil
}

func validByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '/' || c == '.' || c == '_' || c == '=' || c == '-'
}

// Range returns which part of an object of size bytes a ReadAt of n bytes from
// off reads, as Store.ReadAt defines it, and whether it ends with io.EOF. The
// stores share it, so that they agree.
func Range(size, off int64, n int) (from int64, count int, eof bool) {
	if off < 0 {
		from = max(0, size+off)
		return from, int(min(int64(n), size-from)), false
	}
	if off >= size {
		return size, 0, n > 0
	}
	count = int(min(int64(n), size-off))
	return off, count, count < n
}

// MaxList is the most objects that one List returns of a store that has no
// larger page (S3 ListObjectsV2); any store returns as many, if they are there.
const MaxList = 1000

// ListLimit returns the number of objects that List returns at most for a
// limit that a caller gave, in a store whose largest page is most.
func ListLimit(limit, most int) int {
	if limit <= 0 {
		return MaxList
	}
	return min(limit, most)
}

// ValidateDelete checks the arguments of Store.Delete.
func ValidateDelete(keys []string) error {
	if len(keys) > MaxDeleteKeys {
		return fmt.Errorf("delete %d objects: at most %d at a time", len(keys), MaxDeleteKeys)
	}
	for _, key := range keys {
		if err := ValidateKey(key); err != nil {
			return err
		}
	}
	return nil
}
