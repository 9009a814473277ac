// Package vfs is the port to local disks: just what the file object store and
// the object cache need of a file system, with durability spelled out.
//
// Disk is the real one. Mem is for tests: it keeps apart what was written and
// what was synced, for file contents and directory entries alike, so that a
// test can crash it after any operation and look at what a disk may hold then.
package vfs

import "io"

// FS is a file system. Paths are '/'-separated and relative to its root, which
// is "" or "."; one that leads out of the root is fs.ErrInvalid.
// Errors satisfy errors.Is with fs.ErrExist and fs.ErrNotExist, and carry the
// system's error (syscall.ENOSPC …). All methods are safe for concurrent use.
type FS interface {
	// Create makes a new file for writing and reading; it fails with
	// fs.ErrExist where the path is taken. Neither content nor name is
	// durable until File.Sync and SyncDir of the parent.
	Create(path string) (File, error)
	// Open opens a file for reading; a directory is syscall.EISDIR.
	Open(path string) (File, error)
	// Link gives a file a second name; it fails with fs.ErrExist where
	// newPath is taken. The name is durable after SyncDir of its parent.
	Link(oldPath, newPath string) error
	// Remove removes a name.
	Remove(path string) error
	// Mkdir makes a directory; it fails with fs.ErrExist where the path is
	// taken. The name is durable after SyncDir of its parent.
	Mkdir(path string) error
	// ReadDir returns the names in a directory; directories end in '/'. They
	// are in byte order, that '/' included ("a-b" < "a/" < "a0").
	ReadDir(path string) ([]string, error)
	// SyncDir makes the names in a directory durable. After an error none
	// that was new may be trusted, even if a later SyncDir succeeds.
	SyncDir(path string) error
	// Size returns a file's length in bytes; a directory is syscall.EISDIR.
	Size(path string) (int64, error)
}

// File is an open file.
type File interface {
	io.Writer
	io.ReaderAt
	io.Closer
	// Writev writes the buffers one after the other, as one Write of their
	// concatenation would, without joining them.
	Writev(bufs [][]byte) (int64, error)
	// Sync makes the content durable. After an error the content is unknown
	// and the file must not be trusted (fsync reports a lost page once).
	Sync() error
	// Size returns the file's length in bytes.
	Size() (int64, error)
	// Linked says whether the file still has a name: false once somebody,
	// in any process, has removed its last one.
	Linked() (bool, error)
}
