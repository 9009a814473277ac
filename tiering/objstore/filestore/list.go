package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/varvelog/varve/tiering/objstore"
)

// maxList is the most objects of one List: each reads the whole of the folders that it walks through.
const maxList = 1 << 16

// List implements objstore.Store. It walks the folders in the order of keys
// and holds the names of one folder for each level.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	w := walk{s: s, prefix: prefix, after: after, limit: objstore.ListLimit(limit, maxList)}
	// The folders that the prefix names whole need not be looked for. (A ".."
	// in it names none, and is not followed either: no key has it.)
	from := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if from != "" && objstore.ValidateKey(strings.TrimSuffix(from, "/")) != nil {
		return nil, ctx.Err()
	}
	if err := w.dir(ctx, from); err != nil {
		return nil, fmt.Errorf("list objects %s*: %w", prefix, err)
	}
	return w.found, nil
}

// walk is one List.
type walk struct {
	s             *Store
	prefix, after string
	limit         int
	found         []objstore.Info
}

// dir visits a folder, given as the beginning of its keys: "" or "a/b/".
//
// A folder's keys all begin with its name and '/', and vfs sorts the names with
// that '/', so that visiting the names in order is visiting the keys in order.
func (w *walk) dir(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.s.settle(ctx, w.s.path(dir)); err != nil {
		return err
	}
	names, err := w.s.fs.ReadDir(w.s.path(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names[w.first(dir, names):] {
		if len(w.found) == w.limit {
			return nil
		}
		key := dir + name
		if !w.wanted(key) {
			if key > w.prefix {
				return nil // past the prefix, like all that follow
			}
			continue
		}
		if err := w.visit(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// first returns where in a folder's names the walk begins: at the last one
// that is not greater than after, which may be a folder that holds what follows after.
func (w *walk) first(dir string, names []string) int {
	at, _ := slices.BinarySearchFunc(names, w.after, func(name, after string) int {
		return strings.Compare(dir+name, after)
	})
	return max(0, at-1)
}

// wanted says whether the object, or any object in the folder, may be listed
// by the prefix.
func (w *walk) wanted(key string) bool {
	return strings.HasPrefix(key, w.prefix) || strings.HasSuffix(key, "/") && strings.HasPrefix(w.prefix, key)
}

func (w *walk) visit(ctx context.Context, key string) error {
	if strings.HasSuffix(key, "/") {
		if key == tmpDir+"/" || key < w.after && !strings.HasPrefix(w.after, key) {
			return nil
		}
		return w.dir(ctx, key)
	}
	if key <= w.after || objstore.ValidateKey(key) != nil {
		return nil //nolint:nilerr // a stranger's file
	}
	size, _, _, err := w.s.size(w.s.path(key))
	if errors.Is(err, errNoPack) { // deleted since, with its pack, or missing
		_, _, _, err = w.s.size(w.s.path(key))
	}
	if absent(err) { // deleted since
		return nil
	}
	if err != nil {
		return err
	}
	w.found = append(w.found, objstore.Info{Key: key, Size: size})
	return nil
}
