package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/sqlite"
)

// TestManyOpenANewDatabase has many make the same database at once.
func TestManyOpenANewDatabase(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "meta.db")
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				s, err := sqlite.Open(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// TestBusy has another connection hold the write lock: a commit gives up in
// bounded time, or when its caller's time is over, as certainly not applied.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	db, err := sql.Open("sqlite", path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	k := meta.Key{PK: "p", SK: "s"}
	start := time.Now()
	if err := s.Commit(t.Context(), "a", meta.Create(k, nil)); !errors.Is(err, meta.ErrBusy) {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Fatalf("gave up after %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	if err := s.Commit(ctx, "b", meta.Create(k, nil)); !errors.Is(err, meta.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Fatalf("the deadline was passed by %v", took)
	}
	if _, err := s.Get(t.Context(), k); !errors.Is(err, meta.ErrNotFound) {
		t.Fatalf("reads wait for no lock: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "c", meta.Create(k, nil)); err != nil {
		t.Fatal(err)
	}
}

const countEnv = "VARVE_SQLITE_TEST_COUNT"

// TestProcesses has several processes count in one item.
func TestProcesses(t *testing.T) {
	path, times := os.Getenv(countEnv), 50
	if path != "" {
		count(t, open(t, path), times)
		return
	}
	path = filepath.Join(t.TempDir(), "meta.db")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const processes = 3
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestProcesses$")
			cmd.Env = append(os.Environ(), countEnv+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	item, err := open(t, path).Get(t.Context(), meta.Key{PK: "count", SK: "er"})
	if err != nil || item.Attrs["n"] != strconv.Itoa(processes*times) {
		t.Fatalf("%+v, %v", item, err)
	}
}

func count(t *testing.T, s *sqlite.Store, times int) {
	k := meta.Key{PK: "count", SK: "er"}
	for done := 0; done < times; {
		item, err := s.Get(t.Context(), k)
		if errors.Is(err, meta.ErrNotFound) {
			item, err = meta.Item{Key: k, Attrs: meta.Attrs{"n": "0"}}, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(item.Attrs["n"].(string))
		if err != nil {
			t.Fatal(err)
		}
		err = s.Commit(t.Context(), meta.NewCommitID(), meta.Put(item, meta.Attrs{"n": strconv.Itoa(n + 1)}))
		switch {
		case err == nil:
			done++
		case !errors.Is(err, meta.ErrConflict) && !errors.Is(err, meta.ErrBusy):
			t.Fatal(err)
		}
	}
}
