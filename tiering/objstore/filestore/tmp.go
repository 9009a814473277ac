package filestore

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/varvelog/varve/internal/vfs"
)

// process tells the temporary files of live writers from those that a killed
// one left. Removing a live one's file would not hurt either: its put fails,
// unapplied.
type process struct {
	id    string               // of this process; it has two parts, with one '-'
	alive func(id string) bool // whether the process with an id still runs
}

// newProcess identifies a process by its number and the time of its start,
// since numbers come again.
func newProcess() process {
	return process{id: processID(os.Getpid()), alive: func(id string) bool {
		var pid int
		if _, err := fmt.Sscanf(id, "%d-", &pid); err != nil || pid <= 0 {
			return false
		}
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return false
		}
		return processID(pid) == id
	}}
}

// processID returns "<pid>-<start>", where start is field 22 of proc_pid_stat(5), in clock
// ticks after boot, or 0 where the system has no /proc.
func processID(pid int) string {
	start := "0"
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		// Field 2, the command, may hold spaces: count from its last ')'.
		if f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]); len(f) > 19 {
			start = string(f[19])
		}
	}
	return fmt.Sprintf("%d-%s", pid, start)
}

// nonce tells the Stores of one process apart.
func nonce() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// tmpFolderFiles is how many temporary files are made in one folder. A file's
// inode lies where the folder lies in which it was created; new folders, which
// are spread over the disk, keep creates fast while thousands of old objects
// are deleted.
const tmpFolderFiles = 1024

// createTmp creates a temporary file.
func (s *Store) createTmp() (name string, f vfs.File, err error) {
	name = s.nextTmp()
	f, err = s.fs.Create(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeTmpFolder(name); err == nil {
			f, err = s.fs.Create(name)
		}
	}
	return name, f, err
}

// nextTmp returns the name of a new temporary file, whose folder may be missing.
func (s *Store) nextTmp() string {
	n := s.seq.Add(1)
	if n%tmpFolderFiles == 0 && n >= 2*tmpFolderFiles { // the one before may be in use yet
		_ = s.fs.Remove(s.tmpFolder(n/tmpFolderFiles - 2))
	}
	return fmt.Sprintf("%s/%d", s.tmpFolder(n/tmpFolderFiles), n)
}

func (s *Store) makeTmpFolder(tmp string) error {
	if err := s.fs.Mkdir(path.Dir(tmp)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (s *Store) tmpFolder(n int64) string { return fmt.Sprintf("%s%d", s.tmp, n) }

// sweep removes the temporary files whose writers are gone.
func (s *Store) sweep(alive func(id string) bool) error {
	dir := path.Join(s.root, tmpDir)
	names, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	checked := map[string]bool{}
	for _, name := range names { // <pid>-<start>-<nonce>-<n>/
		parts := strings.Split(name, "-")
		if len(parts) != 4 || !strings.HasSuffix(name, "/") {
			continue
		}
		id := parts[0] + "-" + parts[1]
		live, ok := checked[id]
		if !ok {
			live = alive(id)
			checked[id] = live
		}
		if live {
			continue
		}
		if err := s.removeFolder(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// removeFolder removes a folder of temporary files; another process may be at it too.
func (s *Store) removeFolder(folder string) error {
	names, err := s.fs.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if err := s.fs.Remove(path.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.fs.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}
