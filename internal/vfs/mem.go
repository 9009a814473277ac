package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// OpKind names an operation of FS or File for Mem's hook.
type OpKind string

// The operations that change something or can fail on their own account.
const (
	OpCreate      OpKind = "create"
	OpOpen        OpKind = "open"
	OpLink        OpKind = "link"
	OpRemove      OpKind = "remove"
	OpMkdir       OpKind = "mkdir"
	OpReadDir     OpKind = "readdir"
	OpSyncDir     OpKind = "syncdir"
	OpSize        OpKind = "size"
	OpPreallocate OpKind = "preallocate"
	OpEdit        OpKind = "edit"
	OpLock        OpKind = "lock"
	OpWrite       OpKind = "write" // Write and Writev; WriteAt and WriteBlocks
	OpReadAt      OpKind = "readat"
	OpSync        OpKind = "sync" // WriteBlocks too, after its write
	OpTruncate    OpKind = "truncate"
)

// Op is an operation that is about to happen. Path is the file's, or of a link
// the new, path.
type Op struct {
	Kind OpKind
	Path string
}

// Mem is a file system in memory that can crash and fail. It knows of each
// file how much of it was synced, and of each directory which names were.
type Mem struct {
	mu     sync.Mutex
	root   *node
	hook   func(Op) error
	locked map[*node]bool
}

// node is a file or a directory. Files that are not written in place only
// grow, so what is durable of their content is a prefix.
type node struct {
	data   []byte
	synced int  // durable bytes of data
	lost   bool // a sync failed: what it covered never becomes durable
	links  int  // of a file: its names

	inPlace bool
	stable  []byte // of a file that is written in place: what is durable, in place of synced

	names   map[string]*node // nil for a file
	durable map[string]*node // the names that survive a crash for certain
	failed  map[string]bool  // names whose sync failed: a later one does not save them
}

// NewMem returns an empty file system.
func NewMem() *Mem { return newMem(newDir()) }

func newMem(root *node) *Mem { return &Mem{root: root, locked: map[*node]bool{}} }

func newDir() *node {
	return &node{names: map[string]*node{}, durable: map[string]*node{}, failed: map[string]bool{}, links: 1}
}

// add enters a new name in a directory.
func (n *node) add(base string, child *node) {
	n.names[base] = child
	delete(n.failed, base)
}

// SetHook makes f be called before each operation; nil: none. When f returns
// an error the operation fails with it: nothing happened, except that half of
// a failed write may be there, and that what a failed sync covered is not
// made durable by a later one either. f is called without a lock held, so it
// may crash the file system.
func (m *Mem) SetHook(f func(Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = f
}

// begin calls the hook and returns with the lock held unless it fails.
func (m *Mem) begin(kind OpKind, name string) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook != nil {
		if err := hook(Op{kind, name}); err != nil {
			return &fs.PathError{Op: string(kind), Path: name, Err: err}
		}
	}
	m.mu.Lock()
	return nil
}

// find returns the node at a path.
func (m *Mem) find(op OpKind, name string) (*node, error) {
	fail := func(err error) error {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	n := m.root
	if name == "" || name == "." {
		return n, nil
	}
	if !fs.ValidPath(name) {
		return nil, fail(fs.ErrInvalid)
	}
	for part := range strings.SplitSeq(name, "/") {
		if n.names == nil {
			return nil, fail(syscall.ENOTDIR)
		}
		next, ok := n.names[part]
		if !ok {
			return nil, fail(syscall.ENOENT)
		}
		n = next
	}
	return n, nil
}

// findDir returns the directory at a path.
func (m *Mem) findDir(op OpKind, name string) (*node, error) {
	n, err := m.find(op, name)
	if err == nil && n.names == nil {
		err = &fs.PathError{Op: string(op), Path: name, Err: syscall.ENOTDIR}
	}
	return n, err
}

// findFile returns the file at a path.
func (m *Mem) findFile(op OpKind, name string) (*node, error) {
	n, err := m.find(op, name)
	if err == nil && n.names != nil {
		err = &fs.PathError{Op: string(op), Path: name, Err: syscall.EISDIR}
	}
	return n, err
}

// free returns the parent of a path at which there is nothing.
func (m *Mem) free(op OpKind, name string) (parent *node, base string, err error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, "", &fs.PathError{Op: string(op), Path: name, Err: fs.ErrInvalid}
	}
	base = path.Base(name)
	if parent, err = m.findDir(op, path.Dir(name)); err != nil {
		return nil, "", err
	}
	if parent.names[base] != nil {
		return nil, "", &fs.PathError{Op: string(op), Path: name, Err: syscall.EEXIST}
	}
	return parent, base, nil
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	if err := m.begin(OpCreate, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	parent, base, err := m.free(OpCreate, name)
	if err != nil {
		return nil, err
	}
	n := &node{links: 1}
	parent.add(base, n)
	return &memFile{m: m, n: n, name: name, writable: true}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	if err := m.begin(OpOpen, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	n, err := m.findFile(OpOpen, name)
	if err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n, name: name}, nil
}

// Link implements FS.
func (m *Mem) Link(oldName, newName string) error {
	if err := m.begin(OpLink, newName); err != nil {
		return err
	}
	defer m.mu.Unlock()
	n, err := m.findFile(OpLink, oldName)
	if err != nil {
		return err
	}
	parent, base, err := m.free(OpLink, newName)
	if err != nil {
		return err
	}
	n.links++
	parent.add(base, n)
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	if err := m.begin(OpRemove, name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	n, err := m.find(OpRemove, name)
	if err != nil {
		return err
	}
	if n == m.root || len(n.names) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	parent, err := m.findDir(OpRemove, path.Dir(name))
	if err != nil {
		return err
	}
	n.links--
	delete(parent.names, path.Base(name))
	return nil
}

// Mkdir implements FS.
func (m *Mem) Mkdir(name string) error {
	if err := m.begin(OpMkdir, name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	parent, base, err := m.free(OpMkdir, name)
	if err != nil {
		return err
	}
	parent.add(base, newDir())
	return nil
}

// ReadDir implements FS.
func (m *Mem) ReadDir(name string) ([]string, error) {
	if err := m.begin(OpReadDir, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	n, err := m.findDir(OpReadDir, name)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(n.names))
	for base, child := range n.names {
		if child.names != nil {
			base += "/"
		}
		names = append(names, base)
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(name string) error {
	hookErr := m.begin(OpSyncDir, name)
	if hookErr != nil {
		m.mu.Lock()
	}
	defer m.mu.Unlock()
	n, err := m.findDir(OpSyncDir, name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSynced, err)
	}
	if errors.Is(hookErr, ErrNotSynced) {
		return hookErr
	}
	if hookErr != nil {
		for base, child := range n.names {
			if n.durable[base] != child {
				n.failed[base] = true
			}
		}
		return hookErr
	}
	for base := range n.durable {
		if n.names[base] == nil {
			delete(n.durable, base)
		}
	}
	for base, child := range n.names {
		if !n.failed[base] {
			n.durable[base] = child
		}
	}
	return nil
}

// Size implements FS.
func (m *Mem) Size(name string) (int64, error) {
	if err := m.begin(OpSize, name); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	n, err := m.findFile(OpSize, name)
	if err != nil {
		return 0, err
	}
	return int64(len(n.data)), nil
}

// sortedNames returns the keys of both maps, so that a crash is a function of its seed.
func sortedNames(a, b map[string]*node) []string {
	var names []string
	for base := range a {
		names = append(names, base)
	}
	for base := range b {
		if a[base] == nil {
			names = append(names, base)
		}
	}
	slices.Sort(names)
	return names
}
