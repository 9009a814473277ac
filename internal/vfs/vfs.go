// Package vfs is the port to local disks: just what the file object store and
// the object cache need of a file system, with durability spelled out.
//
// Disk is the real one. Mem is for tests: it keeps apart what was written and
// what was synced, for file contents and directory entries alike, so that a
// test can crash it after any operation and look at what a disk may hold then.
package vfs

import (
	"errors"
	"io"
)

// ErrLocked is returned by Lock for a file that somebody holds.
var ErrLocked = errors.New("vfs: file is locked")

// ErrNotSynced is returned by SyncDir when it came to no fsync: the directory
// could not be opened. A later one makes durable what this one would have.
var ErrNotSynced = errors.New("vfs: directory was not synced")

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
	// SyncDir makes the names in a directory durable. After an error that is
	// not ErrNotSynced none that was new may be trusted, even if a later
	// SyncDir succeeds.
	SyncDir(path string) error
	// Size returns a file's length in bytes; a directory is syscall.EISDIR.
	Size(path string) (int64, error)
	// Preallocate makes a new file of size zero bytes with room on the disk
	// for all of them, to be written in place; it fails as Create does, with
	// syscall.ENOSPC where the room is not there, and with
	// errors.ErrUnsupported where the file system can't reserve any. The file
	// is durable as one of Create is.
	Preallocate(path string, size int64) (BlockFile, error)
	// Edit opens a file to be written in place.
	Edit(path string) (BlockFile, error)
	// Lock takes a lock that one holder at a time has, of all processes, on a
	// file that it makes where it is missing. Closing the lock, or the end of
	// the process, frees it. ErrLocked: somebody has it.
	Lock(path string) (io.Closer, error)
}

// BlockSize is what the offsets of BlockFile.WriteBlocks are multiples of, in bytes.
const BlockSize = 4096

// BlockFile is a file that is written in place. Its methods are safe for
// concurrent use on ranges that don't overlap.
type BlockFile interface {
	// WriteBlocks writes the buffers one after the other from off, a multiple
	// of BlockSize, and zeros up to the next multiple; when it returns nil
	// they are durable, in a file that was synced since it was made. After an
	// error any part of the blocks may have been written.
	WriteBlocks(bufs [][]byte, off int64) error
	// WriteAt writes within the file; what it wrote is durable after Sync.
	io.WriterAt
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Sync makes content and size durable, as File.Sync does.
	Sync() error
	io.Closer
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
