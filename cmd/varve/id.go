package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta"
)

// noID means that no broker id was given.
const noID = -1

var errRunning = errors.New("is already running")

// claim finds a broker id, and locks it: the least one that has a folder of
// the data directory and that nobody runs here, so that a broker that comes back is itself again; else one that
// nobody ever had, from the catalogue.
func (f *brokerFlags) claim(ctx context.Context, store meta.Store) (unlock func(), err error) {
	folders, err := os.ReadDir(f.data)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find a broker id: %w", err)
	}
	var known []int32
	for _, e := range folders {
		if n, ok := strings.CutPrefix(e.Name(), "broker-"); ok {
			if id, err := strconv.ParseUint(n, 10, 32); err == nil && id <= math.MaxInt32 {
				known = append(known, int32(id))
			}
		}
	}
	slices.Sort(known)
	for _, f.id = range known {
		if unlock, err = f.lock(); !errors.Is(err, errRunning) {
			return unlock, err
		}
	}
	if f.id, err = catalog.New(store).ClaimBroker(ctx); err != nil {
		return nil, err
	}
	return f.lock()
}

// lock makes sure that one process at a time runs a broker id on a data
// directory. The lock goes with the process, however it ends.
func (f *brokerFlags) lock() (unlock func(), err error) {
	dir := f.brokerDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("broker %d %w on %s (stop it, or use another --data or --id)", f.id, errRunning, f.data)
		}
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return func() { _ = file.Close() }, nil
}
