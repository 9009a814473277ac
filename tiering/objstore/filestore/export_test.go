package filestore

import "github.com/varvelog/varve/internal/vfs"

// OpenPacked opens a store that puts all objects into packs of size bytes, from
// the first on.
func OpenPacked(files vfs.FS, root string, size int64) (*Store, error) {
	s, err := Open(files, root, "")
	if err == nil {
		s.packSize, s.packAfter = size, 0
	}
	return s, err
}
